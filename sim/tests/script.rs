//! What clients did in one run can be written down, printed, read, and done again.

use quorate_sim::heap::SECOND;
use quorate_sim::report::Keep;
use quorate_sim::run::{run, run_and_keep};
use quorate_sim::schedule;
use quorate_sim::script::What;
use quorate_sim::swarm::Setup;

#[test]
fn a_run_that_was_written_down_can_be_read_and_done_again() {
    for seed in [1, 4] {
        let mut setup = Setup::draw_with(seed, Some(15 * SECOND));
        // What contenders and controllers do is not written down.
        setup.control_plane.iter_mut().for_each(|plane| plane.controllers = 0);
        setup.contest.iter_mut().for_each(|contest| contest.contenders = 0);
        let kept = run_and_keep(setup.clone(), Keep { deeds: true, ..Keep::default() });
        assert_eq!(kept.hash, run(setup.clone(), false).hash, "seed {seed}: writing it down changes nothing");
        let deeds = kept.deeds.expect("asked for");
        let asked = deeds.iter().filter(|deed| matches!(deed.what, What::Ask { .. })).count() as u64;
        assert_eq!(asked, kept.totals.operations);
        let stories: Vec<String> = deeds.iter().map(|deed| deed.story()).collect();
        let grants: Vec<&String> = stories.iter().filter(|story| story.starts_with("lease grant")).collect();
        assert!(grants.len() > 3 && grants.iter().all(|grant| grant.contains(" as ")), "{grants:?}");
        let scripted = Setup { script: Some(deeds.into()), ..setup.clone() };
        let read = schedule::read(&scripted.file()).expect("it is one's own");
        assert_eq!(Setup::draw(seed).with(read).as_ref(), Ok(&scripted));
        let again = run(scripted, false);
        assert_eq!(again.violation, None, "seed {seed}");
        // Each request at its time or when the one before is over; some have to wait longer than in the first run.
        assert!(again.totals.operations * 3 > asked, "{} of {asked}", again.totals.operations);
        assert!(again.totals.answered * 3 > kept.totals.answered, "{}\n{}", kept.totals, again.totals);
        assert!(again.totals.watch_events > 0);
    }
}

#[test]
fn keeping_a_chronicle_changes_nothing() {
    let setup = Setup::draw_with(2, Some(10 * SECOND));
    let keep = Keep { chronicle: true, frames: true, ..Keep::default() };
    let (with, without) = (run_and_keep(setup.clone(), keep), run(setup, false));
    assert_eq!((with.hash, with.events), (without.hash, without.events));
    let story = with.chronicle.expect("asked for").story(u64::MAX);
    for word in ["leads term", "starts with", "nemesis", "answered after", "watches"] {
        assert!(story.iter().any(|line| line.contains(word)), "{word}");
    }
}
