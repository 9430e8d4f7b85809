//! What members say to each other about the log.

use bincode::{Decode, Encode};

use crate::blob::Source;
use crate::{Incarnation, Term};

/// One message of consensus between two members.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct Message {
    /// The sender's term.
    pub term: Term,
    /// The life of the sender's disk.
    pub incarnation: Incarnation,
    /// The sender votes and counts.
    pub trusted: bool,
}
