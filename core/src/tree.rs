//! A persistent ordered map from byte strings: a B+-tree whose nodes are shared between clones until one changes.
//!
//! Cloning is O(1) and a clone never changes, so a published clone is a snapshot that any thread may read. A change
//! copies the nodes on the path to it that a clone still shares, and works in place where none does: the first change
//! after a clone costs one leaf and the few nodes above, the following ones next to nothing. Nodes hold their keys
//! packed, so a small entry costs little more than its own bytes. Every subtree knows the weight of what is in it, so
//! counting a range does not visit it.

mod keys;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use keys::{Keys, grow};

/// What a tree holds under a key.
pub(crate) trait Item: Clone {
    /// What it adds to [`Tree::weight`] of ranges that contain it.
    fn weight(&self) -> u64 {
        1
    }
}

impl Item for () {}
impl Item for crate::Blob {}

/// Most entries of a leaf and children of an inner node: large enough to pack, small enough to copy per change.
const WIDTH_MAX: usize = 32;
/// Nodes with fewer are merged with a neighbour if the two fit in one.
const WIDTH_MIN: usize = WIDTH_MAX / 4;
/// A node that holds more bytes of keys is split early, so that a change never copies many long keys.
const KEY_BYTES_MAX: usize = 8 << 10;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Tree<V> {
    root: Arc<Node<V>>,
}

#[derive(Clone, Debug)]
enum Node<V> {
    Leaf(Leaf<V>),
    Inner(Inner<V>),
}

#[derive(Clone, Debug)]
struct Leaf<V> {
    /// Ascending; as many as `items`.
    keys: Keys,
    items: Vec<V>,
}

#[derive(Clone, Debug)]
struct Inner<V> {
    /// One fewer than `children`: everything in child `i` < key `i` <= everything in child `i + 1`.
    keys: Keys,
    children: Vec<Child<V>>,
}

#[derive(Clone, Debug)]
struct Child<V> {
    /// The sum of the weights below `node`.
    weight: u64,
    node: Arc<Node<V>>,
}

/// The right half of a node that was split, and the least key that belongs there.
struct Split<V> {
    key: Vec<u8>,
    right: Node<V>,
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Leaf { keys: Keys::default(), items: Vec::new() })) }
    }
}

impl<V: Item> Tree<V> {
    /// The item under `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.keys.search(key).ok().map(|at| &leaf.items[at]),
                Node::Inner(inner) => node = &inner.children[inner.child(key)].node,
            }
        }
    }

    /// Changes the item under `key` in place; `None` if there is none.
    pub(crate) fn modify<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> Option<R> {
        modify(Arc::make_mut(&mut self.root), key, change).map(|(result, _)| result)
    }

    /// Stores `item` under `key` and returns what was there.
    pub(crate) fn insert(&mut self, key: &[u8], item: V) -> Option<V> {
        let root = Arc::make_mut(&mut self.root);
        let (old, split) = insert(root, key, item);
        if let Some(Split { key, right }) = split {
            let left = core::mem::replace(root, Node::Leaf(Leaf { keys: Keys::default(), items: Vec::new() }));
            let mut keys = Keys::default();
            keys.insert(0, &key);
            *root = Node::Inner(Inner { keys, children: vec![Child::new(left), Child::new(right)] });
        }
        old
    }

    /// Removes the item under `key` and returns it.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<V> {
        self.get(key)?; // Copies no path for nothing.
        let removed = remove(Arc::make_mut(&mut self.root), key);
        loop {
            match &*self.root {
                Node::Inner(inner) if inner.children.len() == 1 => self.root = inner.children[0].node.clone(),
                Node::Inner(inner) if inner.children.is_empty() => *self = Self::default(),
                _ => return Some(removed),
            }
        }
    }

    /// The entries with keys in `from..to` in ascending order; without `to`, all from `from` on.
    pub(crate) fn range<'a>(&'a self, from: &[u8], to: Option<&'a [u8]>) -> Range<'a, V> {
        let mut path = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let (Ok(at) | Err(at)) = leaf.keys.search(from);
                    return Range { path, leaf, at, to };
                }
                Node::Inner(inner) => {
                    let child = inner.child(from);
                    path.push((inner, child + 1));
                    node = &inner.children[child].node;
                }
            }
        }
    }

    /// The sum of the weights of the entries with keys in `from..to`; without `to`, of all from `from` on.
    pub(crate) fn weight(&self, from: &[u8], to: Option<&[u8]>) -> u64 {
        let end = to.map_or_else(|| self.root.weight(), |to| self.weight_before(to));
        end.saturating_sub(self.weight_before(from))
    }

    fn weight_before(&self, key: &[u8]) -> u64 {
        let (mut node, mut weight) = (&*self.root, 0);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let (Ok(at) | Err(at)) = leaf.keys.search(key);
                    return weight + leaf.items[..at].iter().map(Item::weight).sum::<u64>();
                }
                Node::Inner(inner) => {
                    let child = inner.child(key);
                    weight += inner.children[..child].iter().map(|child| child.weight).sum::<u64>();
                    node = &inner.children[child].node;
                }
            }
        }
    }

    /// Asserts what every tree promises, in O(n).
    pub(crate) fn check_deep(&self) {
        let mut last: Option<&[u8]> = None;
        for (key, _) in self.range(&[], None) {
            assert!(last.is_none_or(|last| last < key), "keys are not ascending: {last:?}, {key:?}");
            assert!(self.get(key).is_some(), "{key:?} is not found where it is");
            last = Some(key);
        }
        self.root.check_weights();
    }
}

/// Also says by how much (wrapping) the weight has grown: most changes leave it, and so need not look around.
fn modify<V: Item, R>(node: &mut Node<V>, key: &[u8], change: impl FnOnce(&mut V) -> R) -> Option<(R, u64)> {
    match node {
        Node::Leaf(leaf) => {
            let item = &mut leaf.items[leaf.keys.search(key).ok()?];
            let before = item.weight();
            let result = change(item);
            Some((result, item.weight().wrapping_sub(before)))
        }
        Node::Inner(inner) => {
            let at = inner.child(key);
            let child = &mut inner.children[at];
            let (result, more) = modify(Arc::make_mut(&mut child.node), key, change)?;
            child.weight = child.weight.wrapping_add(more);
            Some((result, more))
        }
    }
}

fn insert<V: Item>(node: &mut Node<V>, key: &[u8], item: V) -> (Option<V>, Option<Split<V>>) {
    match node {
        Node::Leaf(leaf) => match leaf.keys.search(key) {
            Ok(at) => (Some(core::mem::replace(&mut leaf.items[at], item)), None),
            Err(at) => {
                leaf.keys.insert(at, key);
                grow(&mut leaf.items, 1);
                leaf.items.insert(at, item);
                (None, leaf.split(at))
            }
        },
        Node::Inner(inner) => {
            let at = inner.child(key);
            let child = &mut inner.children[at];
            let node = Arc::make_mut(&mut child.node);
            let (old, split) = insert(node, key, item);
            child.weight = node.weight();
            let Some(Split { key, right }) = split else { return (old, None) };
            inner.keys.insert(at, &key);
            grow(&mut inner.children, 1);
            inner.children.insert(at + 1, Child::new(right));
            (old, inner.split(at + 1))
        }
    }
}

/// `key` is there.
fn remove<V: Item>(node: &mut Node<V>, key: &[u8]) -> V {
    match node {
        Node::Leaf(leaf) => {
            let at = leaf.keys.search(key).expect("the caller has found it");
            leaf.keys.remove(at);
            leaf.items.remove(at)
        }
        Node::Inner(inner) => {
            let at = inner.child(key);
            let child = &mut inner.children[at];
            let node = Arc::make_mut(&mut child.node);
            let removed = remove(node, key);
            child.weight = node.weight();
            match node.width() {
                0 => inner.remove_child(at),
                1..WIDTH_MIN => inner.merge(at),
                _ => {}
            }
            removed
        }
    }
}

impl<V: Item> Leaf<V> {
    /// Splits an overfull leaf after an insert at `at`. Ascending inserts leave full leaves behind.
    fn split(&mut self, at: usize) -> Option<Split<V>> {
        let len = self.items.len();
        if len <= WIDTH_MAX && (self.keys.bytes() <= KEY_BYTES_MAX || len < 2) {
            return None;
        }
        let middle = if at == len - 1 { at } else { self.keys.middle() };
        let right = Self { keys: self.keys.split_off(middle), items: self.items.split_off(middle) };
        self.items.shrink_to_fit();
        // The shortest key that tells the halves apart.
        let (before, first) = (self.keys.get(middle - 1), right.keys.get(0));
        let common = before.iter().zip(first).take_while(|(a, b)| a == b).count();
        Some(Split { key: first[..=common].to_vec(), right: Node::Leaf(right) })
    }
}

impl<V: Item> Inner<V> {
    /// The child in which `key` is, if it is anywhere.
    fn child(&self, key: &[u8]) -> usize {
        self.keys.search(key).map_or_else(|at| at, |at| at + 1)
    }

    fn split(&mut self, at: usize) -> Option<Split<V>> {
        let len = self.children.len();
        if len <= WIDTH_MAX && (self.keys.bytes() <= KEY_BYTES_MAX || len < 4) {
            return None;
        }
        let middle = if at == len - 1 { len - 2 } else { self.keys.middle() };
        let key = self.keys.get(middle).to_vec();
        let right = self.keys.split_off(middle + 1);
        self.keys.remove(middle);
        let children = self.children.split_off(middle + 1);
        self.children.shrink_to_fit();
        Some(Split { key, right: Node::Inner(Self { keys: right, children }) })
    }

    fn remove_child(&mut self, at: usize) {
        self.children.remove(at);
        if self.keys.len() > 0 {
            self.keys.remove(at.saturating_sub(1));
        }
    }

    /// Joins the child at `at` with a neighbour if both fit in one node with room to grow.
    fn merge(&mut self, at: usize) {
        if self.children.len() < 2 {
            return;
        }
        let left = at.saturating_sub(1);
        let separator = self.keys.get(left);
        let [a, b] = [&self.children[left].node, &self.children[left + 1].node];
        let bytes = a.keys().bytes() + b.keys().bytes() + separator.len();
        if a.width() + b.width() > WIDTH_MAX * 3 / 4 || bytes > KEY_BYTES_MAX {
            return;
        }
        let separator = separator.to_vec();
        self.keys.remove(left);
        let right = self.children.remove(left + 1);
        let child = &mut self.children[left];
        child.weight += right.weight;
        match (Arc::make_mut(&mut child.node), Arc::unwrap_or_clone(right.node)) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.keys.append(&right.keys);
                left.items.extend(right.items);
            }
            (Node::Inner(left), Node::Inner(right)) => {
                left.keys.insert(left.keys.len(), &separator);
                left.keys.append(&right.keys);
                left.children.extend(right.children);
            }
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

impl<V: Item> Node<V> {
    fn keys(&self) -> &Keys {
        match self {
            Self::Leaf(leaf) => &leaf.keys,
            Self::Inner(inner) => &inner.keys,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.items.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Self::Leaf(leaf) => leaf.items.iter().map(Item::weight).sum(),
            Self::Inner(inner) => inner.children.iter().map(|child| child.weight).sum(),
        }
    }

    fn check_weights(&self) {
        assert!(self.width() <= WIDTH_MAX, "a node is {} wide", self.width());
        if let Self::Inner(inner) = self {
            assert_eq!(inner.keys.len() + 1, inner.children.len(), "keys stand between children");
            for child in &inner.children {
                assert!(child.node.width() > 0, "an empty node was kept");
                assert_eq!(child.weight, child.node.weight(), "a subtree's weight is that of its entries");
                child.node.check_weights();
            }
        }
    }
}

impl<V: Item> Child<V> {
    fn new(node: Node<V>) -> Self {
        Self { weight: node.weight(), node: Arc::new(node) }
    }
}

/// See [`Tree::range`].
#[derive(Debug)]
pub(crate) struct Range<'a, V> {
    /// The way down from the root, with the child to go to next.
    path: Vec<(&'a Inner<V>, usize)>,
    leaf: &'a Leaf<V>,
    at: usize,
    to: Option<&'a [u8]>,
}

impl<'a, V: Item> Iterator for Range<'a, V> {
    type Item = (&'a [u8], &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at == self.leaf.items.len() {
            self.next_leaf()?;
        }
        let key = self.leaf.keys.get(self.at);
        if self.to.is_some_and(|to| key >= to) {
            return None;
        }
        self.at += 1;
        Some((key, &self.leaf.items[self.at - 1]))
    }
}

impl<V: Item> Range<'_, V> {
    fn next_leaf(&mut self) -> Option<()> {
        loop {
            let (inner, next) = self.path.last_mut()?;
            let Some(child) = inner.children.get(*next) else {
                self.path.pop();
                continue;
            };
            *next += 1;
            match &*child.node {
                Node::Inner(inner) => self.path.push((inner, 0)),
                Node::Leaf(leaf) => {
                    (self.leaf, self.at) = (leaf, 0);
                    return Some(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::prelude::rust_2024::*;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Blob;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(Vec<u8>, u8),
        Modify(Vec<u8>, u8),
        Remove(Vec<u8>),
        RemoveAll(Vec<u8>),
        Keep,
    }

    impl Item for u8 {
        fn weight(&self) -> u64 {
            u64::from(*self % 3)
        }
    }

    /// Few distinct bytes, so that keys share prefixes and meet again; some longer than a node may hold.
    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        let long = (any::<u8>(), 4000_usize..9000).prop_map(|(byte, len)| {
            let mut key = vec![b'l'; len];
            key.push(byte);
            key
        });
        prop_oneof![
            20 => vec(prop_oneof![Just(0_u8), Just(1), Just(b'a'), Just(255)], 1..6),
            20 => (0_u16..600).prop_map(|n| n.to_be_bytes().to_vec()),
            1 => long,
        ]
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            12 => (any_key(), any::<u8>()).prop_map(|(key, item)| Op::Insert(key, item)),
            3 => (any_key(), any::<u8>()).prop_map(|(key, item)| Op::Modify(key, item)),
            6 => any_key().prop_map(Op::Remove),
            1 => vec(any::<u8>(), 0..2).prop_map(Op::RemoveAll),
            2 => Just(Op::Keep),
        ]
    }

    fn same(tree: &Tree<u8>, map: &BTreeMap<Vec<u8>, u8>) {
        tree.check_deep();
        let entries: Vec<_> = tree.range(&[], None).map(|(key, item)| (key.to_vec(), *item)).collect();
        assert_eq!(entries, map.clone().into_iter().collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn tree_is_a_map_and_its_clones_never_change(ops in vec(any_op(), 1..1500), from in any_key(), to in any_key()) {
            let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(key, item) => prop_assert_eq!(tree.insert(&key, item), map.insert(key, item)),
                    Op::Modify(key, item) => prop_assert_eq!(
                        tree.modify(&key, |old| core::mem::replace(old, item)),
                        map.get_mut(&key).map(|old| core::mem::replace(old, item))
                    ),
                    Op::Remove(key) => prop_assert_eq!(tree.remove(&key), map.remove(&key)),
                    Op::RemoveAll(from) => {
                        let keys: Vec<_> = map.range(from.clone()..).map(|(key, _)| key.clone()).take(200).collect();
                        for key in keys {
                            prop_assert_eq!(tree.remove(&key), map.remove(&key));
                        }
                    }
                    Op::Keep => kept.push((tree.clone(), map.clone())),
                }
            }
            kept.push((tree, map));
            for (tree, map) in &kept {
                same(tree, map);
                let part: Vec<_> = map.iter().filter(|(key, _)| **key >= from && **key < to).collect();
                let found: Vec<_> = tree.range(&from, Some(&to)).map(|(key, item)| (key.to_vec(), *item)).collect();
                prop_assert_eq!(found, part.iter().map(|(key, item)| ((*key).clone(), **item)).collect::<Vec<_>>());
                prop_assert_eq!(tree.weight(&from, Some(&to)), part.iter().map(|(_, item)| item.weight()).sum::<u64>());
            }
        }
    }

    #[test]
    fn ascending_inserts_leave_full_leaves_and_removals_give_them_back() {
        let mut tree = Tree::default();
        for n in 0..10_000_u32 {
            tree.insert(&n.to_be_bytes(), Blob::EMPTY);
        }
        fn leaves<V>(node: &Node<V>) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Inner(inner) => inner.children.iter().map(|child| leaves(&child.node)).sum(),
            }
        }
        assert!(leaves(&tree.root) <= 10_000 / WIDTH_MAX + 1, "{} leaves", leaves(&tree.root));
        for n in (0..10_000_u32).filter(|n| n % 100 != 0) {
            assert!(tree.remove(&n.to_be_bytes()).is_some());
        }
        tree.check_deep();
        assert!(leaves(&tree.root) <= 100 / WIDTH_MIN, "{} leaves for 100 entries", leaves(&tree.root));
    }
}
