//! Reads a file that anybody may have written: every number is checked before it is believed.
//!
//! Walking visits no leaf twice, since keys must ascend over all of them, and descends at most [`DEPTH_MAX`] levels: it
//! ends on any file. A page is read only if it fits in the file and in [`SPAN_BYTES_MAX`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::{
    BRANCH, BUCKET_BYTES, BoltError, ELEMENT_BYTES, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_HEADER_BYTES,
    VERSION, damaged, fnv1a,
};

/// A file's bytes.
pub trait Source {
    /// How many there are.
    fn bytes(&self) -> u64;

    /// Exactly `len` of them from `offset` on; the caller keeps within [`Source::bytes`].
    ///
    /// # Errors
    /// The file system failed.
    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes>;
}

impl Source for Bytes {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        Ok(self.slice(offset..offset + len))
    }
}

/// Trees of real files have three or four levels.
const DEPTH_MAX: usize = 32;
/// A page with what overflows of it: more than any value etcd stores takes.
const SPAN_BYTES_MAX: u64 = 128 << 20;
const PAGE_BYTES_MIN: u64 = 512;
const PAGE_BYTES_MAX: u64 = 64 << 10;
/// So many pages that did not overflow are kept at hand.
const CACHED_MAX: usize = 2048;

/// An open file.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    page_bytes: u64,
    /// Every page's id is below.
    pages: u64,
    root: u64,
    cache: RefCell<BTreeMap<u64, Page>>,
}

/// A tree within a file.
#[derive(Clone, Debug)]
pub struct Bucket {
    root: Root,
}

#[derive(Clone, Debug)]
enum Root {
    At(u64),
    Inline(Page),
}

/// A branch or a leaf. Cloning shares its bytes.
#[derive(Clone, Debug)]
struct Page {
    id: u64,
    is_leaf: bool,
    count: usize,
    /// With its header, and with what overflows.
    bytes: Bytes,
}

struct Element {
    flags: u32,
    child: u64,
    key: Bytes,
    value: Bytes,
}

struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl<S: Source> Reader<S> {
    /// Opens a file by the newer of its meta pages that is valid.
    ///
    /// # Errors
    /// Neither is; or the file is shorter than it says.
    pub fn open(source: S) -> Result<Self, BoltError> {
        let first = meta(&source, 0)?;
        // The second one stands where the first says, or else at any place where it can.
        let sizes = match &first {
            Ok(meta) => vec![meta.page_bytes],
            Err(_) => (9..=16).map(|power| 1 << power).collect(),
        };
        let mut best = first;
        for size in sizes {
            let other = meta(&source, size)?;
            let is_newer = match (&best, &other) {
                (Ok(best), Ok(other)) => other.page_bytes == size && other.transaction > best.transaction,
                (Err(_), Ok(other)) => other.page_bytes == size,
                _ => false,
            };
            if is_newer {
                best = other;
            }
        }
        let Meta { page_bytes, root, pages, .. } = best.map_err(BoltError::Foreign)?;
        let (found, expected) = (source.bytes(), pages.saturating_mul(page_bytes));
        if found < expected {
            return Err(BoltError::Truncated { found, expected });
        }
        Ok(Self { source, page_bytes, pages, root, cache: RefCell::default() })
    }

    /// What it reads from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The buckets with their names, in order.
    ///
    /// # Errors
    /// The root is damaged.
    pub fn buckets(&self) -> Result<Vec<(Bytes, Bucket)>, BoltError> {
        let mut found = Vec::new();
        let mut cursor = self.walk(&Bucket { root: Root::At(self.root) });
        while let Some((page, element)) = cursor.element()? {
            if element.flags & IS_BUCKET == 0 {
                return Err(damaged(page, "the root holds a key that is no bucket"));
            }
            found.push((element.key, Bucket::parse(page, &element.value)?));
        }
        Ok(found)
    }

    /// The bucket called `name`.
    ///
    /// # Errors
    /// The root is damaged.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        Ok(self.buckets()?.into_iter().find(|(other, _)| *other == name).map(|(_, bucket)| bucket))
    }

    /// Walks `bucket` in order of its keys.
    pub fn walk(&self, bucket: &Bucket) -> Cursor<'_, S> {
        Cursor { reader: self, start: Some(bucket.root.clone()), path: Vec::new(), last: None }
    }

    /// The value of `key` in `bucket`.
    ///
    /// # Errors
    /// A page on the way is damaged.
    pub fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Bytes>, BoltError> {
        let mut page = self.root(&bucket.root)?;
        for _ in 0..DEPTH_MAX {
            let at = page.last_up_to(key)?;
            let Some(at) = at.or((!page.is_leaf).then_some(0)) else { return Ok(None) };
            let element = page.element(at)?;
            if page.is_leaf {
                return Ok((*element.key == *key).then_some(element.value));
            }
            page = self.page(element.child)?;
        }
        Err(damaged(page.id, "the tree is too deep"))
    }

    fn root(&self, root: &Root) -> Result<Page, BoltError> {
        match root {
            Root::At(id) => self.page(*id),
            Root::Inline(page) => Ok(page.clone()),
        }
    }

    fn page(&self, id: u64) -> Result<Page, BoltError> {
        if let Some(page) = self.cache.borrow().get(&id) {
            return Ok(page.clone());
        }
        if id < 2 || id >= self.pages {
            return Err(damaged(id, format!("pages of trees are from 2 to {}", self.pages.saturating_sub(1))));
        }
        let at = id * self.page_bytes;
        let header = self.source.read(at, PAGE_HEADER_BYTES)?;
        let overflow = u64::from(u32_at(&header, 12));
        let span = (overflow + 1) * self.page_bytes;
        if overflow >= self.pages - id || span > SPAN_BYTES_MAX {
            return Err(damaged(id, format!("it claims to go on for {overflow} pages")));
        }
        let len = usize::try_from(span).map_err(|_| damaged(id, "it is too long"))?;
        let page = Page::parse(id, self.source.read(at, len)?)?;
        if u64_at(&header, 0) != id {
            return Err(damaged(id, format!("it says it is page {}", u64_at(&header, 0))));
        }
        if overflow == 0 {
            let mut cache = self.cache.borrow_mut();
            if cache.len() >= CACHED_MAX {
                cache.clear();
            }
            cache.insert(id, page.clone());
        }
        Ok(page)
    }
}

/// The meta page at `offset`, or why it is none.
fn meta<S: Source>(source: &S, offset: u64) -> Result<Result<Meta, String>, BoltError> {
    let len = PAGE_HEADER_BYTES + META_BYTES;
    if source.bytes() < offset + len as u64 {
        return Ok(Err(format!("{} bytes are too short for one", source.bytes())));
    }
    let page = source.read(offset, len)?;
    let body = &page[PAGE_HEADER_BYTES..];
    if u16_at(&page, 8) & META == 0 || u32_at(body, 0) != MAGIC {
        return Ok(Err("it has no meta page".to_owned()));
    }
    if u32_at(body, 4) != VERSION {
        return Ok(Err(format!("its version is {}, not {VERSION}", u32_at(body, 4))));
    }
    if fnv1a(&body[..META_BYTES - 8]) != u64_at(body, META_BYTES - 8) {
        return Ok(Err("the checksum of its meta pages is wrong".to_owned()));
    }
    let page_bytes = u64::from(u32_at(body, 8));
    if !page_bytes.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) {
        return Ok(Err(format!("pages of {page_bytes} bytes")));
    }
    Ok(Ok(Meta { page_bytes, root: u64_at(body, 16), pages: u64_at(body, 40), transaction: u64_at(body, 48) }))
}

impl Bucket {
    fn parse(page: u64, value: &Bytes) -> Result<Self, BoltError> {
        if value.len() < BUCKET_BYTES {
            return Err(damaged(page, format!("a bucket of {} bytes", value.len())));
        }
        let root = match u64_at(value, 0) {
            0 => Root::Inline(Page::parse(page, value.slice(BUCKET_BYTES..))?),
            id => Root::At(id),
        };
        Ok(Self { root })
    }
}

impl Page {
    fn parse(id: u64, bytes: Bytes) -> Result<Self, BoltError> {
        if bytes.len() < PAGE_HEADER_BYTES {
            return Err(damaged(id, format!("{} bytes are no page", bytes.len())));
        }
        let (kind, count) = (u16_at(&bytes, 8), usize::from(u16_at(&bytes, 10)));
        let is_leaf = match kind {
            LEAF => true,
            BRANCH if count > 0 => false,
            BRANCH => return Err(damaged(id, "a branch to nowhere")),
            other => return Err(damaged(id, format!("neither branch nor leaf but {other:#x}"))),
        };
        if bytes.len() < PAGE_HEADER_BYTES + count * ELEMENT_BYTES {
            return Err(damaged(id, format!("{count} elements in {} bytes", bytes.len())));
        }
        Ok(Self { id, is_leaf, count, bytes })
    }

    fn element(&self, at: usize) -> Result<Element, BoltError> {
        let start = PAGE_HEADER_BYTES + at * ELEMENT_BYTES;
        let numbers = &self.bytes[start..start + ELEMENT_BYTES];
        let number = |offset| u32_at(numbers, offset) as usize;
        let (flags, position, key_bytes, value_bytes, child) = match self.is_leaf {
            true => (u32_at(numbers, 0), number(4), number(8), number(12), 0),
            false => (0, number(0), number(4), 0, u64_at(numbers, 8)),
        };
        let first = start + position;
        let (middle, end) = (first + key_bytes, first + key_bytes + value_bytes);
        if end > self.bytes.len() {
            return Err(damaged(self.id, format!("element {at} ends at byte {end} of {}", self.bytes.len())));
        }
        Ok(Element { flags, child, key: self.bytes.slice(first..middle), value: self.bytes.slice(middle..end) })
    }

    /// The last element whose key is at most `key`, if the elements are in order.
    fn last_up_to(&self, key: &[u8]) -> Result<Option<usize>, BoltError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if *self.element(middle)?.key <= *key { low = middle + 1 } else { high = middle }
        }
        Ok(low.checked_sub(1))
    }
}

/// A walk through a bucket.
#[derive(Debug)]
pub struct Cursor<'a, S> {
    reader: &'a Reader<S>,
    start: Option<Root>,
    /// From the root down: pages, and the next element of each.
    path: Vec<(Page, usize)>,
    last: Option<Bytes>,
}

impl<S: Source> Cursor<'_, S> {
    /// The next key with its value.
    ///
    /// # Errors
    /// The file is damaged here; or there is a bucket within the bucket.
    #[allow(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, BoltError> {
        match self.element()? {
            Some((page, element)) if element.flags & IS_BUCKET != 0 => {
                Err(damaged(page, "a bucket within a bucket, which etcd has not"))
            }
            found => Ok(found.map(|(_, element)| (element.key, element.value))),
        }
    }

    /// The next element and its page.
    fn element(&mut self) -> Result<Option<(u64, Element)>, BoltError> {
        if let Some(root) = self.start.take() {
            self.path.push((self.reader.root(&root)?, 0));
        }
        while let Some((page, at)) = self.path.last_mut() {
            if *at == page.count {
                self.path.pop();
                continue;
            }
            let (id, is_leaf) = (page.id, page.is_leaf);
            let element = page.element(*at)?;
            *at += 1;
            if !is_leaf {
                let child = self.reader.page(element.child)?;
                if self.path.len() == DEPTH_MAX || child.count == 0 {
                    return Err(damaged(child.id, "an empty page in a tree, or a tree too deep"));
                }
                self.path.push((child, 0));
                continue;
            }
            if self.last.as_ref().is_some_and(|last| *last >= element.key) {
                return Err(damaged(id, "keys do not ascend"));
            }
            // A copy: the key must not keep its whole page.
            self.last = Some(Bytes::copy_from_slice(&element.key));
            return Ok(Some((id, element)));
        }
        Ok(None)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
