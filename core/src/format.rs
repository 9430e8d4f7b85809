//! Every byte format that is stored or sent between members.

pub mod codec;
pub mod wal;
