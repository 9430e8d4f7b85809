//! A file from sorted buckets of sorted keys, in one go: no page is ever changed, none is free.
//!
//! Where the root will be and how long the file gets stands at its beginning, so everything is put twice: once to plan,
//! by sizes alone, and once to write. What is held meanwhile is one page per level of one tree.

use super::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, FREELIST, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_HEADER_BYTES,
    VERSION, fnv1a,
};

const PAGE_BYTES: usize = 4096;
/// Two meta pages and the freelist.
const FIRST_PAGE: u64 = 3;
/// bbolt's own deletes rely on a branch having two children at least.
const BRANCH_MIN: usize = 2;

/// What a file will look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pages: u64,
    root: u64,
}

impl Plan {
    /// The file's length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// Writes a file, or plans one.
#[derive(Debug)]
pub struct Writer {
    /// What the file must come to; `None` while planning, when nothing is rendered.
    plan: Option<Plan>,
    rendered: Vec<u8>,
    next_page: u64,
    /// The open bucket's name and the node under construction at each level of its tree, leaves first.
    bucket: Option<(Vec<u8>, Vec<Node>)>,
    /// The root page of each bucket that has been ended; `None` if it is empty.
    buckets: Vec<(Vec<u8>, Option<u64>)>,
}

/// A page under construction.
#[derive(Debug)]
struct Node {
    kind: u16,
    first: Vec<u8>,
    last: Vec<u8>,
    elements: Vec<Element>,
    /// Keys and values; empty while planning.
    data: Vec<u8>,
    /// What it takes rendered.
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Element {
    flags: u32,
    key_bytes: usize,
    value_bytes: usize,
    child: u64,
}

impl Writer {
    /// A writer that only finds out what the file will look like.
    #[must_use]
    pub fn planning() -> Self {
        Self { plan: None, rendered: Vec::new(), next_page: FIRST_PAGE, bucket: None, buckets: Vec::new() }
    }

    /// A writer of the file that was planned: exactly the same must be put.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut writer = Self { plan: Some(plan), ..Self::planning() };
        for page in 0..2 {
            writer.meta(page, plan);
        }
        page_header(&mut writer.rendered, 2, FREELIST, 0, 0);
        writer.pad();
        writer
    }

    /// Begins a bucket; names ascend.
    ///
    /// # Panics
    /// If they do not.
    pub fn bucket(&mut self, name: &[u8]) {
        self.end_bucket();
        let last = self.buckets.last().map(|(last, _)| last);
        assert!(last.is_none_or(|last| **last < *name), "bucket {name:?} after {last:?}");
        self.bucket = Some((name.to_vec(), vec![Node::new(LEAF)]));
    }

    /// Adds a key to the open bucket; keys ascend.
    ///
    /// # Panics
    /// If they do not, or no bucket is open.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.leaf(key, value.len(), value);
    }

    /// Like [`Writer::put`], while planning: a value's length is all that matters.
    ///
    /// # Panics
    /// As [`Writer::put`]; and when not planning.
    pub fn plan(&mut self, key: &[u8], value_bytes: usize) {
        assert!(self.plan.is_none(), "a value is missing");
        self.leaf(key, value_bytes, &[]);
    }

    fn leaf(&mut self, key: &[u8], value_bytes: usize, value: &[u8]) {
        let (_, nodes) = self.bucket.as_ref().expect("a bucket is open");
        let leaf = &nodes[0];
        assert!(leaf.elements.is_empty() || *leaf.last < *key, "key {key:?} after {:?}", leaf.last);
        self.add(0, Element { flags: 0, key_bytes: key.len(), value_bytes, child: 0 }, key, value);
    }

    /// Ends the file and says what it looks like.
    ///
    /// # Panics
    /// If that is not what was planned.
    pub fn finish(&mut self) -> Plan {
        self.end_bucket();
        let mut root = Node::new(LEAF);
        for (name, page) in std::mem::take(&mut self.buckets) {
            let mut value = Vec::with_capacity(BUCKET_BYTES + PAGE_HEADER_BYTES);
            value.extend_from_slice(&page.unwrap_or(0).to_le_bytes());
            value.extend_from_slice(&0_u64.to_le_bytes()); // its sequence
            if page.is_none() {
                page_header(&mut value, 0, LEAF, 0, 0);
            }
            let element = Element { flags: IS_BUCKET, key_bytes: name.len(), value_bytes: value.len(), child: 0 };
            root.push(element, &name, &value, true);
        }
        let root = self.write(&root);
        let plan = Plan { pages: self.next_page, root };
        assert!(self.plan.is_none_or(|planned| planned == plan), "planned {:?}, written {plan:?}", self.plan);
        plan
    }

    /// Bytes of the file that are complete, in order; each is given once.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rendered)
    }

    /// How many bytes [`Writer::take`] would give.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.rendered.len()
    }

    fn add(&mut self, level: usize, element: Element, key: &[u8], value: &[u8]) {
        let (_, nodes) = self.bucket.as_mut().expect("a bucket is open");
        let node = &mut nodes[level];
        let is_full = node.bytes + ELEMENT_BYTES + element.key_bytes + element.value_bytes > PAGE_BYTES;
        let mut moved = None;
        let splits = match node.kind {
            BRANCH => node.elements.len() > BRANCH_MIN,
            _ => !node.elements.is_empty(),
        };
        if is_full && splits {
            if node.kind == BRANCH {
                moved = Some(node.pop());
            }
            self.flush(level);
        }
        let is_rendered = self.plan.is_some();
        let (_, nodes) = self.bucket.as_mut().expect("a bucket is open");
        if let Some((element, key)) = moved {
            nodes[level].push(element, &key, &[], is_rendered);
        }
        nodes[level].push(element, key, value, is_rendered);
    }

    /// Writes the node of `level` and tells the one above.
    fn flush(&mut self, level: usize) {
        let (_, nodes) = self.bucket.as_mut().expect("a bucket is open");
        let kind = nodes[level].kind;
        let node = std::mem::replace(&mut nodes[level], Node::new(kind));
        if level + 1 == nodes.len() {
            nodes.push(Node::new(BRANCH));
        }
        let child = self.write(&node);
        let element = Element { flags: 0, key_bytes: node.first.len(), value_bytes: 0, child };
        self.add(level + 1, element, &node.first, &[]);
    }

    fn end_bucket(&mut self) {
        let Some((_, nodes)) = &self.bucket else { return };
        let mut root = None;
        if !nodes[0].elements.is_empty() {
            let mut level = 0;
            // Adding to a level may begin another one above it.
            while level + 1 < self.bucket.as_ref().map_or(0, |(_, nodes)| nodes.len()) {
                self.flush(level);
                level += 1;
            }
            let top = self.bucket.as_mut().and_then(|(_, nodes)| nodes.pop()).expect("a tree has a level");
            root = Some(self.write(&top));
        }
        let (name, _) = self.bucket.take().expect("looked at above");
        self.buckets.push((name, root));
    }

    /// Gives `node` its place.
    fn write(&mut self, node: &Node) -> u64 {
        let id = self.next_page;
        let pages = node.bytes.div_ceil(PAGE_BYTES);
        self.next_page += pages as u64;
        if self.plan.is_some() {
            let start = self.rendered.len();
            node.render(id, pages - 1, &mut self.rendered);
            assert_eq!(self.rendered.len() - start, node.bytes, "bytes of page {id}");
            self.pad();
        }
        id
    }

    fn meta(&mut self, page: u64, plan: Plan) {
        let out = &mut self.rendered;
        page_header(out, page, META, 0, 0);
        let start = out.len();
        for number in [MAGIC, VERSION, small(PAGE_BYTES), 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        // Transaction n is page n % 2's. Both say the same, so either may be lost.
        for number in [plan.root, 0, 2, plan.pages, 2 + page] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = fnv1a(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(out.len() - start, META_BYTES, "bytes of a meta page");
        self.pad();
    }

    fn pad(&mut self) {
        // What was taken is whole pages, too.
        self.rendered.resize(self.rendered.len().next_multiple_of(PAGE_BYTES), 0);
    }
}

impl Node {
    fn new(kind: u16) -> Self {
        let (first, last) = (Vec::new(), Vec::new());
        Self { kind, first, last, elements: Vec::new(), data: Vec::new(), bytes: PAGE_HEADER_BYTES }
    }

    fn push(&mut self, element: Element, key: &[u8], value: &[u8], is_rendered: bool) {
        if self.elements.is_empty() {
            self.first = key.to_vec();
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        if is_rendered {
            assert!(element.key_bytes == key.len() && element.value_bytes == value.len(), "{element:?} of {key:?}");
            self.data.extend_from_slice(key);
            self.data.extend_from_slice(value);
        }
        self.elements.push(element);
        self.bytes += ELEMENT_BYTES + element.key_bytes + element.value_bytes;
    }

    /// Takes the last element off a branch, with its key.
    fn pop(&mut self) -> (Element, Vec<u8>) {
        let element = self.elements.pop().expect("only a full branch is split");
        let key = std::mem::take(&mut self.last);
        self.data.truncate(self.data.len().saturating_sub(key.len()));
        self.bytes -= ELEMENT_BYTES + element.key_bytes;
        (element, key)
    }

    fn render(&self, id: u64, overflow: usize, out: &mut Vec<u8>) {
        let count = u16::try_from(self.elements.len()).expect("elements take 16 bytes of a page of 4096");
        page_header(out, id, self.kind, count, small(overflow));
        let mut position = self.elements.len() * ELEMENT_BYTES;
        for element in &self.elements {
            let key_bytes = small(element.key_bytes);
            if self.kind == BRANCH {
                out.extend_from_slice(&small(position).to_le_bytes());
                out.extend_from_slice(&key_bytes.to_le_bytes());
                out.extend_from_slice(&element.child.to_le_bytes());
            } else {
                for number in [element.flags, small(position), key_bytes, small(element.value_bytes)] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            position = position - ELEMENT_BYTES + element.key_bytes + element.value_bytes;
        }
        out.extend_from_slice(&self.data);
    }
}

fn page_header(out: &mut Vec<u8>, id: u64, kind: u16, count: u16, overflow: u32) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&overflow.to_le_bytes());
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a page is far smaller than 4 GiB")
}
