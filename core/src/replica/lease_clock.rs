//! When leases run out, by the leader's own monotonic clock. (etcd: lessor; semantics.md section 7)
//!
//! Every member keeps the table of leases, fed by what its store applied; only the leader keeps time. The store alone
//! decides what exists: the clock merely proposes, by [`LeaseClock::due`] and [`LeaseClock::checkpoints`].
//!
//! **Invariant:** a lease is never due before its TTL has passed on this clock since it was last granted or renewed
//! here, or since this member took over. A new leader starts from the checkpointed remaining time or the full TTL, plus
//! one election timeout: as long as its predecessor may go on answering keep-alives without knowing better.
//! (`replica::lease_clock::tests::agrees_with_the_model`)

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use crate::mutant::{self, Mutant};
use crate::store::{LeaseChange, LeaseRecord};
use crate::{Instant, LeaseId, Ttl};

/// An expiry that was refused when it was applied is proposed again after this. (etcd: 5 s + 2 election timeouts)
const REFUSED_RETRY: Duration = Duration::from_secs(5);

/// What does not change while a clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Added to every lease when this member takes over: one election timeout.
    pub grace: Duration,
    /// Leases longer than this have their remaining TTL written down this often. (etcd: 5 min)
    pub checkpoint_interval: Duration,
}

/// The answer to a keep-alive. (etcd: LeaseKeepAlive)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed.
    Renewed {
        /// The granted TTL, which counts from now again.
        ttl: Ttl,
        /// A checkpoint is in force or under way: answer the client only once `LeaseCheckpoint([(id, None)])`, proposed
        /// after this, is applied. Otherwise a next leader would count from the checkpoint, that is too early.
        uncheckpoint: bool,
    },
    /// It has run out and waits for its revocation: answer TTL 0 once that is applied.
    Expired,
    /// There is no such lease: answer TTL 0.
    Unknown,
    /// This member does not keep time: ask the leader.
    NotLeading,
}

/// All leases of one member and, while it leads, when they run out.
#[derive(Clone, Debug)]
pub struct LeaseClock {
    config: Config,
    leases: BTreeMap<LeaseId, Held>,
    leading: bool,
    /// Leases not yet given out by [`LeaseClock::due`]. Empty unless leading.
    expiries: BTreeSet<(Instant, LeaseId)>,
    /// Leases longer than the interval and not given out as due. Empty unless leading.
    checkpoints: BTreeSet<(Instant, LeaseId)>,
}

/// One lease. The instants mean something only while leading.
#[derive(Clone, Debug)]
struct Held {
    ttl: Ttl,
    /// The applied checkpoint.
    remaining: Option<Ttl>,
    /// Checkpoints that were given out and not yet seen applied.
    checkpointing: u32,
    expiry: Instant,
    checkpoint: Instant,
    /// Given out by [`LeaseClock::due`]: its revocation is proposed.
    due: bool,
}

impl LeaseClock {
    /// The clock of a member that does not lead, with the leases its store holds.
    #[must_use]
    pub fn new(config: Config, leases: impl IntoIterator<Item = LeaseRecord>) -> Self {
        let mut clock = Self {
            config,
            leases: BTreeMap::new(),
            leading: false,
            expiries: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
        };
        clock.restore(leases);
        clock
    }

    /// Replaces all leases: a snapshot was installed.
    ///
    /// # Panics
    /// If this member leads: a leader never installs a snapshot.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = LeaseRecord>) {
        assert!(!self.leading, "a leader's state is never replaced");
        let held = |record: LeaseRecord| (record.lease.id, Held::new(record.lease.ttl, record.remaining));
        self.leases = leases.into_iter().map(held).collect();
    }

    /// Takes note of what an applied entry did to a lease.
    pub fn change(&mut self, now: Instant, change: &LeaseChange) {
        match change {
            LeaseChange::Granted(lease) => {
                self.unqueue(lease.id);
                self.leases.insert(lease.id, Held::new(lease.ttl, None));
                self.restart(now, lease.id);
            }
            LeaseChange::Revoked(id) => {
                self.unqueue(*id);
                self.leases.remove(id);
            }
            LeaseChange::Checkpointed(id, remaining) => {
                if let Some(held) = self.leases.get_mut(id) {
                    held.remaining = *remaining;
                    held.checkpointing = held.checkpointing.saturating_sub(u32::from(remaining.is_some()));
                }
            }
            LeaseChange::Kept(id) => return self.refused(&[*id], now + REFUSED_RETRY),
        }
        self.check();
    }

    /// This member leads *and has applied the first entry of its own term*, so that it knows every lease an earlier
    /// leader granted. Time starts for all of them. Leading already, it changes nothing.
    pub fn promote(&mut self, now: Instant) {
        if self.leading {
            return;
        }
        self.leading = true;
        let (mut expiries, mut checkpoints) = (Vec::new(), Vec::new());
        for (&id, held) in &mut self.leases {
            (held.due, held.checkpointing) = (false, 0);
            if held.expiry == Instant(0) || !mutant::is_on(Mutant::K12) {
                reach!(LeaseTakenOverInPart if held.remaining.is_some());
                let remaining = held.remaining.filter(|_| !mutant::is_on(Mutant::K03));
                held.expiry = now + self.config.grace + span(remaining.unwrap_or(held.ttl));
            }
            held.checkpoint = now + self.config.checkpoint_interval;
            expiries.push((held.expiry, id));
            if span(held.ttl) > self.config.checkpoint_interval {
                checkpoints.push((held.checkpoint, id));
            }
        }
        self.expiries = expiries.into_iter().collect();
        self.checkpoints = checkpoints.into_iter().collect();
        self.check();
    }

    /// This member no longer leads: it stops keeping time.
    pub fn demote(&mut self) {
        self.leading = false;
        self.expiries.clear();
        self.checkpoints.clear();
    }

    /// Whether this member keeps time.
    #[must_use]
    pub fn leading(&self) -> bool {
        self.leading
    }

    /// A client keeps the lease alive. O(log n).
    pub fn renew(&mut self, now: Instant, id: LeaseId) -> Renewal {
        if !self.leading {
            return Renewal::NotLeading;
        }
        let Some(held) = self.leases.get(&id) else {
            return Renewal::Unknown;
        };
        // Once it may have been proposed for revocation, a "renewed" would be a lie.
        if held.due || held.expiry <= now {
            reach!(RenewalTooLate);
            return Renewal::Expired;
        }
        let renewed =
            Renewal::Renewed { ttl: held.ttl, uncheckpoint: held.remaining.is_some() || held.checkpointing > 0 };
        self.unqueue(id);
        self.restart(now, id);
        self.check();
        renewed
    }

    /// The TTL as granted; `None` if there is no such lease.
    #[must_use]
    pub fn granted(&self, id: LeaseId) -> Option<Ttl> {
        self.leases
            .get(&id)
            .map(|held| if mutant::is_on(Mutant::K15) { held.remaining.unwrap_or(held.ttl) } else { held.ttl })
    }

    /// Whole seconds left, rounded down; 0 once expired. `None` if there is no such lease or this member does not lead.
    #[must_use]
    pub fn remaining(&self, now: Instant, id: LeaseId) -> Option<Ttl> {
        let held = self.leases.get(&id).filter(|_| self.leading)?;
        if mutant::is_on(Mutant::K13) && held.expiry > now {
            return Some(held.remaining.unwrap_or(held.ttl));
        }
        Some(Ttl(i64::try_from(held.expiry.since(now).as_secs()).unwrap_or(i64::MAX)))
    }

    /// At most `max` leases that have run out, earliest first: to be proposed as one `LeaseExpire`.
    ///
    /// Each is given out once for as long as this member leads. Its own log keeps the proposal that long; proposing it
    /// again could hit a lease that a client granted anew under the same ID between the two. A proposal that was *not*
    /// appended is returned by [`LeaseClock::refused`].
    #[must_use]
    pub fn due(&mut self, now: Instant, max: usize) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some(&(expiry, id)) = self.expiries.first()
            && expiry <= now
        {
            self.unqueue(id);
            self.leases.get_mut(&id).expect("every queued lease exists").due = true;
            due.push(id);
        }
        self.check();
        due
    }

    /// A proposal of [`LeaseClock::due`] was refused and will never take effect: these are due again at `again`.
    pub fn refused(&mut self, ids: &[LeaseId], again: Instant) {
        for &id in ids {
            if let Some(held) = self.leases.get_mut(&id).filter(|held| self.leading && held.due) {
                reach!(LeaseExpiryRefused);
                held.due = false;
                held.expiry = held.expiry.max(again);
                self.expiries.insert((held.expiry, id));
            }
        }
        self.check();
    }

    /// At most `max` checkpoints to propose as one `LeaseCheckpoint`: whole seconds left, rounded up. If that cannot be
    /// proposed the clock is told so ([`LeaseClock::not_checkpointed`]); the next ones follow an interval later.
    #[must_use]
    pub fn checkpoints(&mut self, now: Instant, max: usize) -> Vec<(LeaseId, Option<Ttl>)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(&(at, id)) = self.checkpoints.first()
            && at <= now
        {
            self.checkpoints.pop_first();
            let held = self.leases.get_mut(&id).expect("every queued lease exists");
            let left = held.expiry.since(now);
            if left.is_zero() {
                continue; // Due: its revocation is next.
            }
            held.checkpoint = now + self.config.checkpoint_interval;
            reach!(LeaseCheckpoint);
            held.checkpointing += 1;
            self.checkpoints.insert((held.checkpoint, id));
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            // Rounding up and the grace of a takeover may not make it longer than granted.
            taken.push((id, Some(Ttl(i64::try_from(seconds).unwrap_or(i64::MAX)).min(held.ttl))));
        }
        self.check();
        taken
    }

    /// The last checkpoints of these leases were not proposed.
    pub fn not_checkpointed(&mut self, checkpoints: &[(LeaseId, Option<Ttl>)]) {
        for (id, _) in checkpoints {
            if let Some(held) = self.leases.get_mut(id) {
                held.checkpointing = held.checkpointing.saturating_sub(1);
            }
        }
    }

    /// When [`LeaseClock::due`] or [`LeaseClock::checkpoints`] has something next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let expiry = self.expiries.first().map_or(Instant::FAR, |&(at, _)| at);
        let checkpoint = self.checkpoints.first().map_or(Instant::FAR, |&(at, _)| at);
        expiry.min(checkpoint)
    }

    /// Counts the full TTL from now, if this member keeps time. The lease must not be queued.
    fn restart(&mut self, now: Instant, id: LeaseId) {
        let Some(held) = self.leases.get_mut(&id).filter(|_| self.leading) else {
            return;
        };
        held.expiry = now + span(held.ttl);
        held.checkpoint = now + self.config.checkpoint_interval;
        self.expiries.insert((held.expiry, id));
        if span(held.ttl) > self.config.checkpoint_interval {
            self.checkpoints.insert((held.checkpoint, id));
        }
    }

    fn unqueue(&mut self, id: LeaseId) {
        if let Some(held) = self.leases.get(&id) {
            self.expiries.remove(&(held.expiry, id));
            self.checkpoints.remove(&(held.checkpoint, id));
        }
    }

    fn check(&self) {
        let (queued, leases) = (self.expiries.len(), self.leases.len());
        assert!(queued <= leases, "{queued} expiries of {leases} leases");
        assert!(self.checkpoints.len() <= leases, "{} checkpoints of {leases} leases", self.checkpoints.len());
        assert!(self.leading || queued == 0, "only a leader keeps time");
    }

    /// Every promise about the state, in O(n).
    ///
    /// # Panics
    /// If one of them is broken.
    pub fn check_deep(&self) {
        self.check();
        for (&id, held) in &self.leases {
            let queued = self.expiries.contains(&(held.expiry, id));
            assert_eq!(queued, self.leading && !held.due, "lease {id} must be queued or given out");
        }
        for (_, id) in self.expiries.iter().chain(&self.checkpoints) {
            assert!(self.leases.contains_key(id), "lease {id} is queued but gone");
        }
    }
}

impl Held {
    fn new(ttl: Ttl, remaining: Option<Ttl>) -> Self {
        Self { ttl, remaining, checkpointing: 0, expiry: Instant(0), checkpoint: Instant(0), due: false }
    }
}

/// A TTL as a span; the store admits none below 1 s or above 9,000,000,000 s, and any other number is harmless here.
fn span(ttl: Ttl) -> Duration {
    Duration::from_secs(u64::try_from(ttl.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::request::Lease;

    const GRACE: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(20);

    fn seconds(count: u64) -> Instant {
        Instant(0) + Duration::from_secs(count)
    }

    fn granted(id: i64, ttl: i64) -> LeaseChange {
        LeaseChange::Granted(Lease { id: LeaseId(id), ttl: Ttl(ttl) })
    }

    fn leader() -> LeaseClock {
        let mut clock = LeaseClock::new(Config { grace: GRACE, checkpoint_interval: INTERVAL }, []);
        clock.promote(Instant(0));
        clock
    }

    #[test]
    fn a_lease_is_due_at_its_ttl_and_only_once() {
        let mut clock = leader();
        clock.change(seconds(1), &granted(7, 10));
        assert_eq!(clock.deadline(), seconds(11));
        assert_eq!(clock.remaining(Instant(seconds(1).0 + 1), LeaseId(7)), Some(Ttl(9)));
        assert_eq!(clock.due(Instant(seconds(11).0 - 1), 10), []);
        assert_eq!(clock.due(seconds(11), 10), [LeaseId(7)]);
        assert_eq!(clock.due(seconds(1_000), 10), []);
        assert_eq!(clock.renew(seconds(11), LeaseId(7)), Renewal::Expired);
        assert_eq!(clock.remaining(seconds(11), LeaseId(7)), Some(Ttl(0)));
        clock.refused(&[LeaseId(7), LeaseId(8)], seconds(12));
        assert_eq!(clock.deadline(), seconds(12), "a leader whose proposals are refused does not spin");
        assert_eq!(clock.due(seconds(12), 10), [LeaseId(7)]);
        clock.change(seconds(12), &LeaseChange::Revoked(LeaseId(7)));
        assert_eq!(clock.renew(seconds(12), LeaseId(7)), Renewal::Unknown);
        assert_eq!((clock.deadline(), clock.remaining(seconds(12), LeaseId(7))), (Instant::FAR, None));
    }

    /// A renewal clears a checkpoint that will be applied after it was answered.
    #[test]
    fn a_checkpoint_under_way_is_not_forgotten_for_an_earlier_one() {
        let (id, renewed) = (LeaseId(7), Renewal::Renewed { ttl: Ttl(100), uncheckpoint: true });
        let checkpointed = |remaining| LeaseChange::Checkpointed(id, remaining);
        let mut clock = leader();
        clock.change(seconds(0), &granted(7, 100));
        assert_eq!(clock.checkpoints(seconds(20), 9), [(id, Some(Ttl(80)))]);
        assert_eq!(clock.renew(seconds(21), id), renewed);
        assert_eq!(clock.checkpoints(seconds(41), 9), [(id, Some(Ttl(80)))]);
        clock.change(seconds(42), &checkpointed(Some(Ttl(80))));
        clock.change(seconds(42), &checkpointed(None));
        assert_eq!(clock.renew(seconds(43), id), renewed, "the second is under way");
        clock.change(seconds(44), &checkpointed(Some(Ttl(80))));
        clock.change(seconds(44), &checkpointed(None));
        assert_eq!(clock.renew(seconds(45), id), Renewal::Renewed { ttl: Ttl(100), uncheckpoint: false });
        let refused = clock.checkpoints(seconds(65), 9);
        clock.not_checkpointed(&refused);
        assert_eq!(clock.renew(seconds(66), id), Renewal::Renewed { ttl: Ttl(100), uncheckpoint: false });
    }

    #[test]
    fn a_new_leader_counts_from_the_checkpoint_plus_one_election_timeout() {
        let record = |id, remaining| LeaseRecord { lease: Lease { id: LeaseId(id), ttl: Ttl(100) }, remaining };
        let config = Config { grace: GRACE, checkpoint_interval: INTERVAL };
        let mut clock = LeaseClock::new(config, [record(1, Some(Ttl(30))), record(2, None)]);
        assert_eq!(clock.renew(seconds(0), LeaseId(1)), Renewal::NotLeading);
        assert_eq!((clock.deadline(), clock.remaining(seconds(0), LeaseId(1))), (Instant::FAR, None));
        clock.promote(seconds(1_000));
        clock.promote(seconds(1_010)); // Not twice.
        assert_eq!(clock.due(seconds(1_031), 10), [LeaseId(1)]);
        assert_eq!(clock.due(seconds(1_100), 10), []);
        clock.demote();
        clock.promote(seconds(1_100)); // The revocation may have been lost with the leadership.
        assert_eq!(clock.due(seconds(1_131), 10), [LeaseId(1)]);
        assert_eq!(clock.due(seconds(1_201), 10), [LeaseId(2)]);
    }

    #[test]
    fn a_renewal_clears_a_checkpoint_in_force_or_under_way_before_it_is_answered() {
        let mut clock = leader();
        clock.change(seconds(0), &granted(1, 100));
        clock.change(seconds(0), &granted(2, 20)); // Not longer than the interval.
        let plain = Renewal::Renewed { ttl: Ttl(100), uncheckpoint: false };
        let clearing = Renewal::Renewed { ttl: Ttl(100), uncheckpoint: true };
        assert_eq!(clock.renew(seconds(5), LeaseId(1)), plain);
        assert_eq!(clock.checkpoints(Instant(seconds(25).0 - 1), 10), []);
        assert_eq!(clock.checkpoints(Instant(seconds(25).0 + 1), 10), [(LeaseId(1), Some(Ttl(80)))], "rounded up");
        assert_eq!(clock.checkpoints(seconds(26), 10), []);
        assert_eq!(clock.renew(seconds(26), LeaseId(1)), clearing, "under way");
        clock.change(seconds(26), &LeaseChange::Checkpointed(LeaseId(1), Some(Ttl(80))));
        assert_eq!(clock.renew(seconds(27), LeaseId(1)), clearing, "in force");
        clock.change(seconds(27), &LeaseChange::Checkpointed(LeaseId(1), None));
        assert_eq!(clock.renew(seconds(28), LeaseId(1)), plain);
        assert_eq!(clock.due(seconds(127), 10), [LeaseId(2)]);
        assert_eq!(clock.due(seconds(128), 10), [LeaseId(1)]);
    }

    #[test]
    fn the_longest_ttl_does_not_overflow() {
        let mut clock = leader();
        let late = Instant(u64::MAX / 4);
        clock.change(late, &granted(1, 9_000_000_000));
        clock.change(late, &granted(2, i64::MAX)); // The store admits no such thing.
        assert_eq!(clock.remaining(late, LeaseId(1)), Some(Ttl(9_000_000_000)));
        assert_eq!(clock.checkpoints(late + INTERVAL, 1), [(LeaseId(1), Some(Ttl(9_000_000_000 - 20)))]);
        assert_eq!(clock.due(Instant(u64::MAX / 2), 10), []);
    }

    #[test]
    fn a_hundred_thousand_leases_expire_in_bounded_batches() {
        let mut clock = leader();
        for id in 1..=100_000 {
            clock.change(Instant(u64::try_from(id).unwrap()), &granted(id, 60));
        }
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let due = clock.due(seconds(61), 1_000);
            assert_eq!(due.len(), 1_000);
            seen.extend(due);
        }
        assert_eq!((seen.len(), clock.due(seconds(61), 1_000)), (100_000, vec![]));
        clock.check_deep();
    }

    /// A lease as a model too simple to be wrong sees it.
    #[derive(Clone, Debug)]
    struct Model {
        ttl: u64,
        remaining: Option<u64>,
        /// When it may expire at the earliest, in ms; while leading.
        expiry: u64,
        given: bool,
    }

    #[derive(Clone, Debug)]
    enum Op {
        Grant(i64, u64),
        Revoke(i64),
        Renew(i64),
        Advance(u64),
        Due(usize),
        Refuse,
        Checkpoint(usize, bool),
        Clear(i64),
        Promote,
        Demote,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let id = || 1..8i64;
        prop_oneof![
            4 => (id(), 1..60u64).prop_map(|(id, ttl)| Op::Grant(id, ttl)),
            1 => id().prop_map(Op::Revoke),
            4 => id().prop_map(Op::Renew),
            6 => (1..15_000u64).prop_map(Op::Advance),
            4 => (0..5usize).prop_map(Op::Due),
            1 => Just(Op::Refuse),
            3 => (0..5usize, any::<bool>()).prop_map(|(max, applied)| Op::Checkpoint(max, applied)),
            1 => id().prop_map(Op::Clear),
            2 => Just(Op::Promote),
            1 => Just(Op::Demote),
        ]
    }

    fn at(millis: u64) -> Instant {
        Instant(0) + Duration::from_millis(millis)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_model(ops in proptest::collection::vec(any_op(), 1..150)) {
            let mut clock = LeaseClock::new(Config { grace: GRACE, checkpoint_interval: INTERVAL }, []);
            let mut leases: BTreeMap<LeaseId, Model> = BTreeMap::new();
            let (mut millis, mut leading, mut last_due) = (0, false, vec![]);
            for op in ops {
                let now = at(millis);
                match op {
                    Op::Grant(id, ttl) if !leases.contains_key(&LeaseId(id)) => {
                        clock.change(now, &granted(id, i64::try_from(ttl).unwrap()));
                        leases.insert(LeaseId(id), Model { ttl, remaining: None, expiry: millis + ttl * 1_000, given: false });
                    }
                    Op::Grant(..) => {}
                    Op::Revoke(id) => {
                        clock.change(now, &LeaseChange::Revoked(LeaseId(id)));
                        leases.remove(&LeaseId(id));
                        last_due.clear();
                    }
                    Op::Renew(id) => {
                        let renewal = clock.renew(now, LeaseId(id));
                        match leases.get_mut(&LeaseId(id)) {
                            _ if !leading => prop_assert_eq!(renewal, Renewal::NotLeading),
                            None => prop_assert_eq!(renewal, Renewal::Unknown),
                            Some(lease) if lease.given || lease.expiry <= millis => prop_assert_eq!(renewal, Renewal::Expired),
                            Some(lease) => {
                                lease.expiry = millis + lease.ttl * 1_000;
                                let Renewal::Renewed { ttl, uncheckpoint } = renewal else {
                                    return Err(TestCaseError::fail("a live lease is renewed"));
                                };
                                prop_assert_eq!(ttl, Ttl(i64::try_from(lease.ttl).unwrap()));
                                prop_assert!(uncheckpoint || lease.remaining.is_none());
                            }
                        }
                    }
                    Op::Advance(span) => millis += span,
                    Op::Due(max) => {
                        let due = clock.due(now, max);
                        let mut expected: Vec<_> = leases.iter().filter(|(_, lease)| leading && !lease.given && lease.expiry <= millis)
                            .map(|(&id, lease)| (lease.expiry, id)).collect();
                        expected.sort();
                        prop_assert_eq!(&due, &expected.into_iter().map(|(_, id)| id).take(max).collect::<Vec<_>>());
                        for id in &due {
                            leases.get_mut(id).unwrap().given = true;
                        }
                        last_due = due;
                    }
                    Op::Refuse => {
                        clock.refused(&last_due, Instant(0));
                        for id in last_due.drain(..) {
                            leases.get_mut(&id).unwrap().given = false;
                        }
                    }
                    Op::Checkpoint(max, applied) => {
                        for (id, left) in clock.checkpoints(now, max) {
                            let lease = leases.get_mut(&id).unwrap();
                            let left = u64::try_from(left.unwrap().0).unwrap();
                            prop_assert!(leading && lease.ttl > 20 && left <= lease.ttl && left > 0);
                            prop_assert!(left == (lease.expiry - millis).div_ceil(1_000).min(lease.ttl), "never below what is left");
                            if applied {
                                clock.change(now, &LeaseChange::Checkpointed(id, Some(Ttl(i64::try_from(left).unwrap()))));
                                lease.remaining = Some(left);
                            }
                        }
                    }
                    Op::Clear(id) => {
                        clock.change(now, &LeaseChange::Checkpointed(LeaseId(id), None));
                        leases.entry(LeaseId(id)).and_modify(|lease| lease.remaining = None);
                    }
                    Op::Promote if !leading => {
                        clock.promote(now);
                        leading = true;
                        for lease in leases.values_mut() {
                            lease.expiry = millis + 1_000 + lease.remaining.unwrap_or(lease.ttl) * 1_000;
                            lease.given = false;
                        }
                    }
                    Op::Promote => {}
                    Op::Demote => {
                        clock.demote();
                        leading = false;
                        last_due.clear();
                    }
                }
                clock.check_deep();
                for (&id, lease) in &leases {
                    let left = Ttl(i64::try_from(lease.expiry.saturating_sub(millis) / 1_000).unwrap());
                    prop_assert_eq!(clock.remaining(at(millis), id), leading.then_some(left));
                }
                let next = leases.values().filter(|lease| leading && !lease.given).map(|lease| at(lease.expiry)).min();
                prop_assert!(clock.deadline() <= next.unwrap_or(Instant::FAR), "nobody would wake up for {:?}", next);
            }
        }
    }
}
