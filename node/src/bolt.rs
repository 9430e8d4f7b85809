//! bbolt files: the format of etcd's backend and of its snapshots. Written in bulk, read with suspicion.
//!
//! A file is pages of one size, mostly 4096 bytes; all numbers are little endian. (bbolt, version 2 of the format)
//!
//! | what | bytes |
//! |---|---|
//! | page | id 8, flags 2, count 2, overflow 4 (pages that follow and belong to it), then by its kind: |
//! | meta (pages 0 and 1) | magic 4, version 4, page size 4, flags 4, root page 8, sequence 8, freelist page 8, pages 8, transaction 8, FNV-1a of those 8 |
//! | freelist | `count` page ids of 8 |
//! | branch | `count` times: position 4, key bytes 4, child page 8; then the keys |
//! | leaf | `count` times: flags 4 (1: a bucket), position 4, key bytes 4, value bytes 4; then keys and values |
//!
//! A position counts from its own element. The valid meta page of the highest transaction counts. The root's leaves name
//! the buckets; a bucket's value is its root page and a sequence, or root 0 and behind the sequence a leaf page itself.

mod reader;
mod writer;

pub use reader::{Bucket, Cursor, Reader, Source};
pub use writer::{Plan, Writer};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER_BYTES: usize = 16;
/// Of branch pages and of leaf pages alike.
const ELEMENT_BYTES: usize = 16;
/// Of a meta page behind the page's header, its checksum included.
const META_BYTES: usize = 64;
/// Of a bucket's value, unless a page follows in it.
const BUCKET_BYTES: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// Of a leaf's element: its value is a bucket.
const IS_BUCKET: u32 = 0x01;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The file system failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It does not begin as such a file does.
    #[error("not a bbolt database: {0}")]
    Foreign(String),
    /// It is shorter than it says.
    #[error("the file is cut off: {found} of at least {expected} bytes")]
    Truncated {
        /// Its length in bytes.
        found: u64,
        /// What its pages take.
        expected: u64,
    },
    /// A page contradicts itself or another.
    #[error("page {page} is damaged: {reason}")]
    Damaged {
        /// Its id.
        page: u64,
        /// What is wrong.
        reason: String,
    },
}

fn damaged(page: u64, reason: impl Into<String>) -> BoltError {
    BoltError::Damaged { page, reason: reason.into() }
}

/// 64-bit FNV-1a, the checksum of meta pages.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
