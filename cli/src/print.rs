//! What a response looks like on stdout, in each of etcdctl's output formats.

mod auth;
mod endpoint;
mod kv;
mod lease;
mod member;
mod snapshot;
mod watch;

use std::fmt::Display;

use prost::Message;
use quorate_api::etcdserverpb::ResponseHeader;

pub use auth::{Changed, Role, User};
pub use endpoint::{Downgraded, Hashes, Health, HealthList, LeaderMoved, Statuses};
pub use lease::{KeepAlive, LeaseRevoked, TimeToLive};
pub use member::{MemberAdded, MemberPromoted, MemberRemoved, MemberUpdated};
pub use watch::WatchEvents;
pub(crate) use {endpoint::alarm_name, watch::type_name};

use crate::failure::{Failure, Result};
use crate::json::Object;

/// `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Simple,
    /// One line, as Go's `encoding/json` writes the response.
    Json,
    /// `"Name" : value` lines.
    Fields,
    /// A table; few commands have one.
    Table,
    /// The response message itself.
    Protobuf,
}

impl Format {
    /// The format called `name`.
    ///
    /// # Errors
    /// It is none of the five.
    pub fn parse(name: &str) -> Result<Format> {
        Ok(match name {
            "simple" => Format::Simple,
            "json" => Format::Json,
            "fields" => Format::Fields,
            "table" => Format::Table,
            "protobuf" => Format::Protobuf,
            _ => return Err(Failure::bad_feature("unsupported output format")),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Format::Simple => "simple",
            Format::Json => "json",
            Format::Fields => "fields",
            Format::Table => "table",
            Format::Protobuf => "protobuf",
        }
    }
}

/// Details of how values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// `--hex`.
    pub hex: bool,
    /// `--print-value-only`.
    pub value_only: bool,
}

/// A response that can be shown. The defaults are for formats that a response does not have.
pub trait Show {
    /// For people.
    fn simple(&self, style: Style, out: &mut Text);

    /// As JSON, without a newline.
    fn json(&self, style: Style) -> Option<String>;

    /// Line by line. False, and nothing written, if there is no such format.
    fn fields(&self, _style: Style, _out: &mut Text) -> bool {
        false
    }

    /// As a table.
    fn table(&self, _style: Style) -> Option<String> {
        None
    }

    /// As an encoded message.
    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Shows responses in one format.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    /// The output format.
    pub format: Format,
    /// How values are shown in it.
    pub style: Style,
}

impl Printer {
    /// The bytes that `response` is shown as.
    ///
    /// # Errors
    /// The response does not exist in this format.
    pub fn render(&self, response: &impl Show) -> Result<Vec<u8>> {
        let mut text = Text::default();
        let shown = match self.format {
            Format::Simple => {
                response.simple(self.style, &mut text);
                Some(text.bytes)
            }
            Format::Json => response.json(self.style).map(|json| (json + "\n").into_bytes()),
            Format::Fields => response.fields(self.style, &mut text).then_some(text.bytes),
            Format::Table => response.table(self.style).map(String::into_bytes),
            Format::Protobuf => response.protobuf(),
        };
        shown.ok_or_else(|| Failure::bad_feature(format!("{} not supported as output format", self.format.name())))
    }

    /// Prints `response` on stdout.
    ///
    /// # Errors
    /// The response does not exist in this format, or stdout is closed.
    pub fn show(&self, response: &impl Show) -> Result<()> {
        write_stdout(&self.render(response)?)
    }
}

/// Writes `bytes` to stdout at once.
///
/// # Errors
/// Stdout is closed.
pub fn write_stdout(bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| Failure::error(e.to_string()))
}

/// Lines under construction. Keys and values are written as they are, whether or not they are UTF-8.
#[derive(Clone, Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// Adds a line.
    pub fn line(&mut self, line: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(line.as_ref());
        self.bytes.push(b'\n');
    }

    /// Adds the line `"name" : value`.
    pub fn field(&mut self, name: &str, value: impl Display) {
        self.line(format!("\"{name}\" : {value}"));
    }

    /// Adds the lines of a response's header.
    pub fn header(&mut self, header: Option<&ResponseHeader>, style: Style) {
        let header = header.cloned().unwrap_or_default();
        self.field("ClusterID", id(header.cluster_id, style));
        self.field("MemberID", id(header.member_id, style));
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }
}

/// A member's or cluster's ID in format fields.
fn id(id: u64, style: Style) -> String {
    if style.hex { format!("{id:x}") } else { id.to_string() }
}

fn encode(message: &impl Message) -> Option<Vec<u8>> {
    Some(message.encode_to_vec())
}

fn header_json(header: Option<&ResponseHeader>) -> Option<String> {
    header.map(|h| header_members(Object::new(), Some(h)).build())
}

/// Adds the header's own members to `object`, as etcdctl does where it embeds the header.
fn header_members(object: Object, header: Option<&ResponseHeader>) -> Object {
    let header = header.cloned().unwrap_or_default();
    object
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}
