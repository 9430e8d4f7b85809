//! Which watchers want a key: exact keys in one ordered set, ranges in an interval tree.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;

use super::Name;
use crate::request::KeyRange;
use crate::rng::Rng;
use crate::{Blob, StreamId, WatchId};

/// Watchers by what they watch. Finding those of a key costs O(log n) for each distinct range found, and one for the
/// exact key.
#[derive(Clone, Debug)]
pub(super) struct Index {
    exact: BTreeSet<(Blob, Name)>,
    ranges: Tree,
    priorities: Rng,
    len: usize,
}

const FIRST: Name = (StreamId(0), WatchId(i64::MIN));
const LAST: Name = (StreamId(u64::MAX), WatchId(i64::MAX));

impl Index {
    /// An empty index; `seed` shapes its tree and nothing else.
    pub(super) fn new(seed: u64) -> Self {
        Self { exact: BTreeSet::new(), ranges: None, priorities: Rng::new(seed), len: 0 }
    }

    /// Watchers held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a watcher that is not held.
    pub(super) fn insert(&mut self, range: &KeyRange, name: Name) {
        let new = match range {
            KeyRange::Key(key) => self.exact.insert((key.clone(), name)),
            KeyRange::Bounded { start, end } => self.insert_range(start, End::Before(end.clone()), name),
            KeyRange::From(start) => self.insert_range(start, End::Open, name),
        };
        assert!(new, "watcher {name:?} is indexed twice");
        self.len += 1;
    }

    /// Removes a watcher that is held.
    pub(super) fn remove(&mut self, range: &KeyRange, name: Name) {
        let old = match range {
            KeyRange::Key(key) => self.exact.remove(&(key.clone(), name)),
            KeyRange::Bounded { start, end } => self.remove_range(start, End::Before(end.clone()), name),
            KeyRange::From(start) => self.remove_range(start, End::Open, name),
        };
        assert!(old, "watcher {name:?} is not indexed");
        self.len -= 1;
    }

    /// Calls `found` with every watcher that wants `key`, each once.
    pub(super) fn matches(&self, key: &Blob, found: &mut impl FnMut(Name)) {
        for (_, name) in self.exact.range((key.clone(), FIRST)..=(key.clone(), LAST)) {
            found(*name);
        }
        stab(&self.ranges, key, found);
    }

    fn insert_range(&mut self, start: &Blob, end: End, name: Name) -> bool {
        let at = (start.clone(), end);
        if let Some(node) = find(&mut self.ranges, &at) {
            return node.names.insert(name);
        }
        let (left, right) = split(self.ranges.take(), &at);
        let node = Node {
            latest: at.1.clone(),
            at,
            priority: self.priorities.next_u64(),
            names: BTreeSet::from([name]),
            left: None,
            right: None,
        };
        self.ranges = merge(merge(left, Some(Box::new(node))), right);
        true
    }

    fn remove_range(&mut self, start: &Blob, end: End, name: Name) -> bool {
        let at = (start.clone(), end);
        let Some(node) = find(&mut self.ranges, &at) else {
            return false;
        };
        let removed = node.names.remove(&name);
        if node.names.is_empty() {
            self.ranges = without(self.ranges.take(), &at);
        }
        removed
    }
}

/// Where a range ends; an open end is after every key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Blob),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Open => true,
        }
    }
}

/// A treap of distinct ranges ordered by (start, end); each node knows the latest end below it, so that whole subtrees
/// which end before a key are skipped. Its expected depth is logarithmic whatever clients ask for.
type Tree = Option<Box<Node>>;

#[derive(Clone, Debug)]
struct Node {
    at: (Blob, End),
    priority: u64,
    /// The latest end in this subtree.
    latest: End,
    names: BTreeSet<Name>,
    left: Tree,
    right: Tree,
}

impl Node {
    fn update(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.latest);
        self.latest = below.chain([&self.at.1]).max().expect("the node's own end is there").clone();
    }
}

fn find<'t>(tree: &'t mut Tree, at: &(Blob, End)) -> Option<&'t mut Node> {
    let node = tree.as_deref_mut()?;
    match at.cmp(&node.at) {
        core::cmp::Ordering::Equal => Some(node),
        core::cmp::Ordering::Less => find(&mut node.left, at),
        core::cmp::Ordering::Greater => find(&mut node.right, at),
    }
}

fn stab(tree: &Tree, key: &[u8], found: &mut impl FnMut(Name)) {
    let Some(node) = tree.as_deref().filter(|node| node.latest.is_after(key)) else {
        return;
    };
    stab(&node.left, key, found);
    if &node.at.0[..] <= key {
        if node.at.1.is_after(key) {
            node.names.iter().copied().for_each(&mut *found);
        }
        stab(&node.right, key, found);
    }
}

/// The ranges before `at`, and the others.
fn split(tree: Tree, at: &(Blob, End)) -> (Tree, Tree) {
    let Some(mut node) = tree else {
        return (None, None);
    };
    if node.at < *at {
        let (middle, right) = split(node.right.take(), at);
        node.right = middle;
        node.update();
        (Some(node), right)
    } else {
        let (left, middle) = split(node.left.take(), at);
        node.left = middle;
        node.update();
        (left, Some(node))
    }
}

/// Both trees as one; all of `left` is before all of `right`.
fn merge(left: Tree, right: Tree) -> Tree {
    match (left, right) {
        (None, tree) | (tree, None) => tree,
        (Some(mut left), Some(mut right)) => {
            if left.priority > right.priority {
                left.right = merge(left.right.take(), Some(right));
                left.update();
                Some(left)
            } else {
                right.left = merge(Some(left), right.left.take());
                right.update();
                Some(right)
            }
        }
    }
}

fn without(tree: Tree, at: &(Blob, End)) -> Tree {
    let mut node = tree?;
    match at.cmp(&node.at) {
        core::cmp::Ordering::Equal => return merge(node.left.take(), node.right.take()),
        core::cmp::Ordering::Less => node.left = without(node.left.take(), at),
        core::cmp::Ordering::Greater => node.right = without(node.right.take(), at),
    }
    node.update();
    Some(node)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn any_range() -> impl Strategy<Value = KeyRange> {
        let key = || (0..12u8).prop_map(|byte| Blob::copy(&[byte]));
        prop_oneof![
            key().prop_map(KeyRange::Key),
            (key(), key()).prop_map(|(start, end)| KeyRange::Bounded { start, end }),
            key().prop_map(KeyRange::From),
        ]
    }

    proptest! {
        #[test]
        fn finds_exactly_the_watchers_whose_range_contains_the_key(
            watchers in proptest::collection::vec(any_range(), 0..60),
            removed in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut index = Index::new(7);
            let mut held: Vec<(Name, KeyRange)> = Vec::new();
            for (id, range) in (0..).map(WatchId).zip(watchers) {
                index.insert(&range, (StreamId(1), id));
                held.push(((StreamId(1), id), range));
            }
            for choice in removed.iter().take(held.len()) {
                let (name, range) = held.swap_remove(choice.index(held.len()));
                index.remove(&range, name);
            }
            prop_assert_eq!(index.len(), held.len());
            for key in (0..13u8).map(|byte| Blob::copy(&[byte])) {
                let mut found = Vec::new();
                index.matches(&key, &mut |name| found.push(name));
                found.sort();
                let mut wanted: Vec<Name> = held.iter().filter(|(_, range)| range.contains(&key)).map(|(name, _)| *name).collect();
                wanted.sort();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn the_tree_stays_shallow_when_ranges_come_in_order() {
        fn depth(tree: &Tree) -> usize {
            tree.as_deref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        let mut index = Index::new(1);
        for i in 0..20_000u32 {
            let range =
                KeyRange::Bounded { start: Blob::copy(&i.to_be_bytes()), end: Blob::copy(&(i + 1).to_be_bytes()) };
            index.insert(&range, (StreamId(1), WatchId(i64::from(i))));
        }
        let depth = depth(&index.ranges);
        assert!(depth < 64, "depth {depth}"); // about 2.5 log2(20,000) = 36 is usual
    }
}
