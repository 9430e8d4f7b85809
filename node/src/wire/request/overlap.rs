//! No key may change twice in one txn: puts and deletes of one execution path must not meet. (etcd: checkIntervals)

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use quorate_core::error::Error;
use quorate_core::request::{KeyRange, RequestOp, TxnRequest};

/// Refuses a txn that could change a key twice.
///
/// A put may meet neither another put nor a delete; deletes may overlap each other. The two branches of one nested txn
/// exclude each other, so they may write the same keys.
///
// Differs from etcd: deletes without an end, and deletes in a nested txn that follows the put, are found too. etcd lets
// these through and then changes one key twice in one revision.
///
/// # Errors
/// [`Error::DuplicateKey`].
pub fn check(txn: &TxnRequest) -> Result<(), Error> {
    Writes::of(&txn.success)?;
    Writes::of(&txn.failure)?;
    Ok(())
}

/// Everything a list of operations may change, whichever branches its nested txns take.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

impl<'a> Writes<'a> {
    fn of(ops: &'a [RequestOp]) -> Result<Self, Error> {
        let mut all = Self::default();
        for op in ops {
            match op {
                RequestOp::Range(_) => {}
                RequestOp::Put(put) => {
                    all.admit(&put.key)?;
                    all.puts.insert(&put.key);
                }
                RequestOp::DeleteRange(delete) => {
                    let Some((start, end)) = interval(&delete.range) else { continue };
                    all.admit_delete(start, end)?;
                    all.deletes.insert(start, end);
                }
                RequestOp::Txn(txn) => {
                    let (success, failure) = (Self::of(&txn.success)?, Self::of(&txn.failure)?);
                    // Both branches are held against what was there before, not against each other.
                    all.admit_all(&success)?;
                    all.admit_all(&failure)?;
                    all.merge(success);
                    all.merge(failure);
                }
            }
        }
        Ok(all)
    }

    fn admit(&self, put: &[u8]) -> Result<(), Error> {
        if self.puts.contains(put) || self.deletes.contains(put) { Err(Error::DuplicateKey) } else { Ok(()) }
    }

    fn admit_delete(&self, start: &'a [u8], end: End<'a>) -> Result<(), Error> {
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(start), end.bound());
        if self.puts.range::<[u8], _>(bounds).next().is_some() { Err(Error::DuplicateKey) } else { Ok(()) }
    }

    fn admit_all(&self, branch: &Self) -> Result<(), Error> {
        branch.puts.iter().try_for_each(|put| self.admit(put))?;
        branch.deletes.0.iter().try_for_each(|(start, end)| self.admit_delete(start, *end))
    }

    fn merge(&mut self, branch: Self) {
        self.puts.extend(branch.puts);
        branch.deletes.0.into_iter().for_each(|(start, end)| self.deletes.insert(start, end));
    }
}

/// Where an interval ends. Ordered: every key's end before `Never`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    /// Before this key.
    Before(&'a [u8]),
    /// With this key.
    With(&'a [u8]),
    /// Not at all.
    Never,
}

impl<'a> End<'a> {
    fn bound(self) -> Bound<&'a [u8]> {
        match self {
            Self::Before(key) => Bound::Excluded(key),
            Self::With(key) => Bound::Included(key),
            Self::Never => Bound::Unbounded,
        }
    }

    fn reaches(self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end,
            Self::With(end) => key <= end,
            Self::Never => true,
        }
    }

    /// The later of two ends.
    fn latest(self, other: Self) -> Self {
        let later = match (self, other) {
            (Self::Never, _) | (_, Self::Never) => return Self::Never,
            (Self::Before(a) | Self::With(a), Self::Before(b) | Self::With(b)) if a != b => a > b,
            (Self::With(_), _) => true,
            (Self::Before(_), _) => false,
        };
        if later { self } else { other }
    }
}

/// The keys of a delete, or `None` if it can name none.
fn interval(range: &KeyRange) -> Option<(&[u8], End<'_>)> {
    match range {
        KeyRange::Key(key) => Some((key, End::With(key))),
        KeyRange::From(start) => Some((start, End::Never)),
        KeyRange::Bounded { start, end } => (start[..] < end[..]).then_some((&start[..], End::Before(end))),
    }
}

/// Disjoint intervals, by start.
#[derive(Default)]
struct Intervals<'a>(BTreeMap<&'a [u8], End<'a>>);

impl<'a> Intervals<'a> {
    fn contains(&self, key: &[u8]) -> bool {
        let upto: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Included(key));
        self.0.range::<[u8], _>(upto).next_back().is_some_and(|(_, end)| end.reaches(key))
    }

    /// Adds an interval, uniting it with those it meets.
    fn insert(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        let upto: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Included(start));
        if let Some((&earlier, &its_end)) = self.0.range::<[u8], _>(upto).next_back()
            && its_end.reaches(start)
        {
            start = earlier;
            end = end.latest(its_end);
        }
        loop {
            let met: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(start), end.bound());
            let Some((&later, &its_end)) = self.0.range::<[u8], _>(met).next() else { break };
            self.0.remove(later);
            end = end.latest(its_end);
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Blob;
    use quorate_core::request::{DeleteRangeRequest, PutRequest};

    use super::*;

    fn put(key: &'static str) -> RequestOp {
        let (key, value) = (Blob::from(key), Blob::EMPTY);
        RequestOp::Put(PutRequest { key, value, lease: None, prev_kv: false, ignore_value: false, ignore_lease: false })
    }

    fn delete(start: &'static str, end: &'static str) -> RequestOp {
        let range = match end {
            "" => KeyRange::Key(start.into()),
            "*" => KeyRange::From(start.into()),
            end => KeyRange::Bounded { start: start.into(), end: end.into() },
        };
        RequestOp::DeleteRange(DeleteRangeRequest { range, prev_kv: false })
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp::Txn(TxnRequest { compare: vec![], success, failure })
    }

    fn verdict(ops: Vec<RequestOp>) -> bool {
        let both = [
            TxnRequest { compare: vec![], success: ops.clone(), failure: vec![] },
            TxnRequest { compare: vec![], success: vec![], failure: ops },
        ];
        let verdicts = both.map(|txn| check(&txn).is_ok());
        assert_eq!(verdicts[0], verdicts[1], "both lists are checked alike");
        verdicts[0]
    }

    #[test]
    fn a_key_changes_at_most_once_on_every_path() {
        assert!(verdict(vec![put("a"), put("b")]));
        assert!(!verdict(vec![put("a"), put("a")]));
        assert!(!verdict(vec![put("a"), delete("a", "")]));
        assert!(!verdict(vec![delete("a", "c"), put("b")]));
        assert!(verdict(vec![delete("a", "c"), put("c")]));
        assert!(verdict(vec![delete("c", "a"), put("b")]), "an empty range deletes nothing");
        assert!(!verdict(vec![put("x"), delete("a", "*")]));
        assert!(verdict(vec![put("a"), delete("b", "*")]));
        assert!(verdict(vec![delete("a", "c"), delete("b", "d"), delete("a", "")]), "deletes may overlap");
        assert!(!verdict(vec![delete("a", "c"), delete("x", "z"), delete("b", "d"), put("c")]), "united");
        assert!(verdict(vec![nested(vec![put("a")], vec![put("a")])]), "branches exclude each other");
        assert!(verdict(vec![nested(vec![put("a")], vec![delete("a", "")])]));
        assert!(!verdict(vec![put("a"), nested(vec![], vec![put("a")])]));
        assert!(!verdict(vec![nested(vec![put("a")], vec![]), nested(vec![put("a")], vec![])]));
        assert!(!verdict(vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "")], vec![])]));
        assert!(!verdict(vec![nested(vec![nested(vec![put("a")], vec![])], vec![]), delete("a", "b")]));
        assert!(!verdict(vec![nested(vec![put("a"), put("a")], vec![])]));
    }

    proptest::proptest! {
        #[test]
        fn united_intervals_contain_what_their_parts_do(
            parts in proptest::collection::vec((0_u8..20, 0_u8..24), 0..12), key in 0_u8..20,
        ) {
            let keys: Vec<[u8; 1]> = (0..24).map(|byte| [byte]).collect();
            let mut united = Intervals::default();
            let mut expected = false;
            for (start, end) in parts {
                let range = match end {
                    22.. => KeyRange::From(Blob::copy(&[start])),
                    20.. => KeyRange::Key(Blob::copy(&[start])),
                    _ => KeyRange::Bounded { start: Blob::copy(&[start]), end: Blob::copy(&[end]) },
                };
                expected |= range.contains(&[key]);
                let (start, end) = (usize::from(start), usize::from(end));
                match range {
                    KeyRange::From(_) => united.insert(&keys[start], End::Never),
                    KeyRange::Key(_) => united.insert(&keys[start], End::With(&keys[start])),
                    KeyRange::Bounded { .. } if start < end => united.insert(&keys[start], End::Before(&keys[end])),
                    KeyRange::Bounded { .. } => {}
                }
            }
            proptest::prop_assert_eq!(united.contains(&[key]), expected);
        }
    }
}
