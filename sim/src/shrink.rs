//! From a failing run to a short story: fewer faults, fewer requests, less time, and still the same promise is broken.
//!
//! What clients did is written down first ([`crate::script`]), and what was done to leaders: then the run is a
//! list of events, and leaving one out changes none of the others. Delta debugging (Zeller and Hildebrandt 2002) over that
//! list, coarse cuts first. Taking something away still shifts the moments of what members, disks and networks do, so each
//! candidate gets a few chances ([`Setup::fate`]), more of them as runs get shorter; the one that fails is kept.

use std::collections::BTreeSet;

use prost::Message as _;
use quorate_core::Revision;
use quorate_core::request::RangeRequest;
use quorate_jepsen::history::Op;

use crate::call::Rpc;
use crate::check::Violation;
use crate::heap::{MICRO, MILLI, Nanos, SECOND};
use crate::report::{Keep, Report};
use crate::run::{cpu_seconds, run, run_and_keep};
use crate::schedule::{Fault, Strike};
use crate::script::{Deed, What};
use crate::swarm::{Knobs, Setup};
use crate::wire;
use crate::workload::watcher::Watcher;

/// How many moments a candidate gets to fail in, round by round.
const CHANCES: [u64; 5] = [1, 2, 5, 12, 30];

/// The shortest run: a cluster needs a moment to come up.
const DURATION_MIN: Nanos = 2 * SECOND;

/// So many changes are left out at once with the revisions behind them lowered.
const LOWERED_MAX: usize = 8;

/// What is left of a failing run.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest that was found.
    pub setup: Setup,
    /// What it breaks, and when.
    pub violation: (Violation, Nanos),
    /// Faults and requests of the run that was given.
    pub events_before: usize,
    /// Runs that it took.
    pub runs: u64,
    /// And CPU seconds.
    pub cpu_seconds: f64,
}

impl Shrunk {
    /// Faults and requests that are left.
    #[must_use]
    pub fn events(&self) -> usize {
        events(&self.setup).len()
    }
}

/// A fault, or what a client does.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Strike(Strike),
    Deed(Deed),
}

impl Event {
    fn at(&self) -> Nanos {
        match self {
            Self::Strike(strike) => strike.at,
            Self::Deed(deed) => deed.at,
        }
    }

    fn set_at(&mut self, at: Nanos) {
        match self {
            Self::Strike(strike) => strike.at = at,
            Self::Deed(deed) => deed.at = at,
        }
    }

    /// Whether it makes a revision, most likely.
    fn writes(&self) -> bool {
        let Self::Deed(Deed { what: What::Ask { rpc, .. }, .. }) = self else { return false };
        matches!(rpc, Rpc::Put | Rpc::DeleteRange | Rpc::Txn)
    }

    /// Takes so much off the revision that it names, if it names one.
    fn lower(&mut self, by: u64) {
        let by = i64::try_from(by).expect("few changes");
        let lower = |revision: Revision| Revision((revision.0 - by).max(1));
        let Self::Deed(Deed { what, .. }) = self else { return };
        match what {
            What::Ask { rpc, bytes, .. } => {
                let op = match wire::operation(*rpc, bytes) {
                    Some(Op::Compact(revision)) => Op::Compact(lower(revision)),
                    Some(Op::Range(range)) => Op::Range(RangeRequest { revision: range.revision.map(lower), ..range }),
                    _ => return,
                };
                *bytes = wire::encode(&op).1;
            }
            What::Watch { new, .. } => {
                for create in new {
                    let mut watcher = Watcher::from_create(create.clone()).expect("a script is readable");
                    watcher.next = watcher.next.map(lower);
                    *create = watcher.create().encode_to_vec().into();
                }
            }
            What::Progress => {}
        }
    }

    /// The groups of events that it belongs to: each is left out as a whole.
    fn groups(&self) -> Vec<String> {
        match self {
            Self::Strike(strike) => {
                let name = strike.fault.to_string();
                vec!["faults".into(), name.split(' ').next().unwrap_or_default().into()]
            }
            Self::Deed(Deed { client, what: What::Ask { rpc, .. }, .. }) => {
                vec!["requests".into(), format!("client {client}"), format!("{rpc:?}")]
            }
            Self::Deed(Deed { client, what: What::Watch { .. }, .. }) => {
                vec!["watches".into(), format!("watcher {client}")]
            }
            Self::Deed(Deed { client, what: What::Progress, .. }) => {
                vec!["watches".into(), format!("watcher {client}"), "progress".into()]
            }
        }
    }
}

fn events(setup: &Setup) -> Vec<Event> {
    let strikes = setup.schedule.iter().copied().map(Event::Strike);
    let deeds = setup.script.iter().flat_map(|script| script.iter().cloned()).map(Event::Deed);
    let mut events: Vec<Event> = strikes.chain(deeds).collect();
    events.sort_by_key(Event::at);
    events
}

/// `setup` with these events instead of its own.
fn with(setup: &Setup, events: &[Event]) -> Setup {
    let mut setup = setup.clone();
    setup.schedule =
        events.iter().filter_map(|event| if let Event::Strike(s) = event { Some(*s) } else { None }).collect();
    if setup.script.is_some() {
        let deeds = events.iter().filter_map(|event| if let Event::Deed(d) = event { Some(d.clone()) } else { None });
        setup.script = Some(deeds.collect());
    }
    setup
}

/// `setup` with no more than `gap_max` from each event to the next, or before the event that is the `only` one.
fn faster(setup: &Setup, gap_max: Nanos, only: Option<usize>) -> Setup {
    let mut events = events(setup);
    let (mut before, mut saved) = (0, 0);
    let mut duration = setup.duration;
    for (n, event) in events.iter_mut().enumerate() {
        let (at, gap) = (event.at(), event.at() - before);
        if only.is_none_or(|only| only == n) {
            saved += gap.saturating_sub(gap_max);
        }
        before = at;
        event.set_at((at - saved) / MICRO * MICRO);
        // Clients go on while all heals: what is saved there does not make the time before it any shorter.
        if at <= setup.duration {
            duration = setup.duration - saved;
        }
    }
    Setup { duration: duration.max(DURATION_MIN), ..with(setup, &events) }
}

/// `setup` with its clients' deeds written down; and, if leaders are harassed, the same once more with the blows that
/// they got for strikes.
fn written_down(setup: &Setup) -> Vec<Setup> {
    let report = run_and_keep(setup.clone(), Keep { deeds: true, ..Keep::default() });
    let scripted = Setup { script: report.deeds.map(Into::into), ..setup.clone() };
    if report.strikes.is_empty() {
        return vec![scripted];
    }
    let mut calm = scripted.clone();
    calm.schedule.retain(|strike| !matches!(strike.fault, Fault::Harass { .. } | Fault::Topple { .. }));
    calm.schedule.extend(report.strikes.into_iter().filter(|strike| strike.at <= setup.duration));
    calm.schedule.sort_by_key(|strike| strike.at);
    vec![calm, scripted]
}

/// The oracle; of assertions, which one.
pub(crate) fn signature(violation: &Violation) -> (&'static str, Option<String>) {
    let place = match violation.oracle {
        "assertion" => {
            violation.text.lines().next().and_then(|line| line.rsplit_once('(')).map(|(_, at)| at.to_owned())
        }
        _ => None,
    };
    (violation.oracle, place)
}

struct Search<'a> {
    best: Shrunk,
    began: f64,
    cpu_seconds_max: f64,
    chances: u64,
    tell: &'a mut dyn FnMut(&Shrunk),
}

/// Makes `setup`, which came to `report`, smaller, for about `cpu_seconds_max` at most. `tell` hears of each success.
/// `None` if nothing was broken.
pub fn shrink(setup: Setup, report: &Report, cpu_seconds_max: f64, tell: &mut dyn FnMut(&Shrunk)) -> Option<Shrunk> {
    let violation = report.violation.clone()?;
    let began = cpu_seconds();
    let scripted = if setup.script.is_some() { vec![setup.clone()] } else { written_down(&setup) };
    let events_before = scripted.first().map_or(0, |setup| events(setup).len());
    let best = Shrunk { setup, violation, events_before, runs: 1, cpu_seconds: 0.0 };
    let mut search = Search { best, began, cpu_seconds_max, chances: 8, tell };
    // Or else clients go on to draw what they do, and only faults are left out.
    let _ = scripted.iter().any(|scripted| search.fails(scripted));
    for chances in CHANCES {
        search.chances = chances;
        loop {
            let before = search.size();
            search.end_sooner();
            search.drop_groups();
            search.ease();
            search.drop_events();
            search.drop_clients();
            search.drop_admins();
            search.drop_contenders();
            search.drop_controllers();
            search.hurry();
            search.drop_watchers();
            if search.size() >= before || search.is_over() {
                break;
            }
        }
    }
    Some(search.best)
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.best.cpu_seconds >= self.cpu_seconds_max
    }

    fn size(&self) -> (usize, usize, Nanos) {
        let Setup { script, clients, watchers, duration, .. } = &self.best.setup;
        let drawing = if script.is_some() { 0 } else { clients + watchers };
        let setup = &self.best.setup;
        let always = setup.admins() + setup.contenders() + setup.controllers();
        (self.best.events(), drawing + always, *duration)
    }

    /// Whether `candidate` breaks the same promise; if so it is the best from now on.
    fn fails(&mut self, candidate: &Setup) -> bool {
        for chance in 0..self.chances {
            if self.is_over() {
                return false;
            }
            let fate = if chance == 0 { candidate.fate } else { self.best.runs + 1 };
            let setup = Setup { fate, ..candidate.clone() };
            self.best.runs += 1;
            let violation = run(setup.clone(), false).violation;
            self.best.cpu_seconds = cpu_seconds() - self.began;
            match violation {
                Some(violation) if signature(&violation.0) == signature(&self.best.violation.0) => {
                    (self.best.setup, self.best.violation) = (setup, violation);
                    (self.tell)(&self.best);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// The first `count` events only, and an end soon after them.
    fn prefix(&self, count: usize) -> Setup {
        let events = events(&self.best.setup);
        let mut setup = with(&self.best.setup, &events[..count]);
        let last = events[..count].last().map_or(0, Event::at);
        setup.duration = ((last + SECOND) / MILLI * MILLI).max(DURATION_MIN).min(setup.duration);
        setup.clients_from = setup.clients_from.min(setup.duration);
        setup
    }

    /// Leaves out the end: nothing matters that comes after the violation, and often it could have been seen earlier.
    fn end_sooner(&mut self) {
        let at = self.best.violation.1;
        let until = |setup: &Setup| events(setup).iter().filter(|event| event.at() <= at).count();
        let (mut low, mut high) = (0, until(&self.best.setup));
        if self.best.setup.script.is_none() {
            // Clients that draw go on as long as there is time: only what is behind the violation can go.
            let mut candidate = self.prefix(high);
            candidate.duration = ((at + SECOND) / MILLI * MILLI).max(DURATION_MIN).min(self.best.setup.duration);
            if candidate != self.best.setup {
                self.fails(&candidate);
            }
            return;
        }
        let whole = self.prefix(high);
        if whole != self.best.setup && !self.fails(&whole) {
            return;
        }
        while low < high && !self.is_over() {
            let middle = low + (high - low) / 2;
            if self.fails(&self.prefix(middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
    }

    /// Leaves out all of one kind, or of one client.
    fn drop_groups(&mut self) {
        let groups: BTreeSet<String> = events(&self.best.setup).iter().flat_map(Event::groups).collect();
        for group in groups {
            let all = events(&self.best.setup);
            let rest: Vec<Event> = all.iter().filter(|event| !event.groups().contains(&group)).cloned().collect();
            if rest.len() < all.len() && !self.is_over() {
                self.fails(&with(&self.best.setup, &rest));
            }
        }
    }

    /// Leaves out parts, half of all first, single events last.
    fn drop_events(&mut self) {
        let mut size = events(&self.best.setup).len().div_ceil(2);
        while size > 0 && !self.is_over() {
            let mut end = events(&self.best.setup).len();
            let before = end;
            // From the end: what comes early is more often needed by what comes late.
            while end > 0 && !self.is_over() {
                let mut rest = events(&self.best.setup);
                let from = end.saturating_sub(size);
                let writes = rest.drain(from..end).filter(Event::writes).count();
                if !self.fails(&with(&self.best.setup, &rest)) && (1..=LOWERED_MAX).contains(&writes) {
                    // What named a revision behind it meant the change that now has a lower one.
                    rest[from..].iter_mut().for_each(|event| event.lower(writes as u64));
                    self.fails(&with(&self.best.setup, &rest));
                }
                end = from;
            }
            let after = events(&self.best.setup).len();
            if size == 1 && after == before {
                return;
            }
            size = if size == 1 { 1 } else { size.div_ceil(2).min(after.div_ceil(2)).max(1) };
        }
    }

    /// Settings under which rare things need less before them.
    fn ease(&mut self) {
        let knobs = self.best.setup.knobs;
        for eased in [Knobs { catchup_entries: 1, ..knobs }, Knobs { flush_batches: 1, ..knobs }] {
            if eased != self.best.setup.knobs {
                self.fails(&Setup { knobs: eased, ..self.best.setup.clone() });
            }
        }
    }

    /// Fewer clients, where they draw what they do.
    fn drop_clients(&mut self) {
        if self.best.setup.script.is_some() {
            return;
        }
        for _ in 0..8 {
            let Setup { clients, watchers, .. } = self.best.setup;
            let fewer = [(clients / 2, watchers), (clients.saturating_sub(1), watchers), (clients, watchers / 2)];
            let smaller = fewer.into_iter().filter(|fewer| *fewer != (clients, watchers)).any(|(clients, watchers)| {
                let candidate = Setup { clients, watchers, ..self.best.setup.clone() };
                self.fails(&candidate)
            });
            if !smaller {
                return;
            }
        }
    }

    /// Fewer administrators: they always draw what they do, since it depends on what the cluster can bear.
    fn drop_admins(&mut self) {
        for admins in [0, 1] {
            if self.best.setup.admins() > admins {
                let mut candidate = self.best.setup.clone();
                candidate.churn.iter_mut().for_each(|churn| churn.admins = admins);
                self.fails(&candidate);
            }
        }
    }

    /// Fewer contenders: they always draw what they do, since it depends on who is in front of them.
    fn drop_contenders(&mut self) {
        for contenders in [0, 1, 2, 3] {
            if self.best.setup.contenders() > contenders {
                let mut candidate = self.best.setup.clone();
                candidate.contest.iter_mut().for_each(|contest| contest.contenders = contenders);
                self.fails(&candidate);
            }
        }
    }

    /// Fewer controllers: they always draw what they do, since it depends on what they were told.
    fn drop_controllers(&mut self) {
        for controllers in [0, 1, 2] {
            if self.best.setup.controllers() > controllers {
                let mut candidate = self.best.setup.clone();
                candidate.control_plane.iter_mut().for_each(|plane| plane.controllers = controllers);
                self.fails(&candidate);
            }
        }
    }

    /// Waits less between two events.
    fn hurry(&mut self) {
        if self.best.setup.script.is_none() {
            return;
        }
        let all = [SECOND / 5, SECOND, 4 * SECOND].map(|gap| (gap, None));
        let single = (0..self.best.events().min(40)).map(|n| (SECOND / 2, Some(n)));
        for (gap, only) in all.into_iter().chain(single) {
            let candidate = faster(&self.best.setup, gap, only);
            if candidate.duration + SECOND / 2 <= self.best.setup.duration {
                self.fails(&candidate);
            }
        }
    }

    /// Fewer watchers on a stream.
    fn drop_watchers(&mut self) {
        for number in 0..self.best.events() {
            let mut left = usize::MAX;
            while !self.is_over() {
                let mut events = events(&self.best.setup);
                let Some(Event::Deed(Deed { what: What::Watch { new, .. }, .. })) = events.get_mut(number) else {
                    break;
                };
                if new.len() < 2 || left == 0 {
                    break;
                }
                left = left.min(new.len()) - 1;
                new.remove(left);
                self.fails(&with(&self.best.setup, &events));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_less_while_all_heals_does_not_shorten_the_time_before() {
        let deed = |at| Deed { at, client: 0, what: What::Progress };
        let script = [SECOND, 2 * SECOND, 20 * SECOND, 34 * SECOND].map(deed).into();
        let setup = Setup { script: Some(script), schedule: Vec::new(), ..Setup::draw_with(0, Some(20 * SECOND)) };
        let times = |setup: &Setup| events(setup).iter().map(|event| event.at() / MILLI).collect::<Vec<_>>();

        let quick = faster(&setup, SECOND / 5, None);
        assert_eq!(times(&quick), [200, 400, 600, 800]);
        assert_eq!(quick.duration, DURATION_MIN);
        let quick = faster(&setup, SECOND / 2, Some(2));
        assert_eq!(times(&quick), [1_000, 2_000, 2_500, 16_500]);
        assert_eq!(quick.duration, 2_500 * MILLI);
        let quick = faster(&setup, SECOND / 2, Some(3));
        assert_eq!(times(&quick), [1_000, 2_000, 20_000, 20_500]);
        assert_eq!(quick.duration, setup.duration);
    }
}
