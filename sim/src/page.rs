//! A run as a page: one file with everything in it, for any browser, without a network.
//!
//! `page/page.html` is the page, with a place for the run's data. All of that is text to it: what a client wrote into keys
//! and values is never taken for markup.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::causality::Point;
use crate::chronicle::{Chronicle, Happened, Moment};
use crate::heap::{MICRO, Nanos};
use crate::report::Report;
use crate::swarm::Setup;

/// The page itself.
const PAGE: &str = include_str!("page/page.html");
/// Stands where the data belongs.
const PLACE: &str = "/*DATA*/";
/// Messages that are kept: the last ones, before the violation or the end.
const FRAMES_MAX: usize = 40_000;

/// The page of a run of `setup`, which came to `report` and is told by `chronicle`; with the curve of its futures, if that
/// was computed.
#[must_use]
pub fn page(setup: &Setup, report: &Report, chronicle: &Chronicle, curve: &[Point]) -> String {
    let data = data(setup, report, chronicle, curve).to_string();
    // In a script element only `<` could end it, or begin a comment.
    PAGE.replacen(PLACE, &data.replace('<', "\\u003c"), 1)
}

/// A request until it is answered.
struct Request {
    at: Nanos,
    client: usize,
    member: usize,
    text: String,
    end: Option<(Nanos, String)>,
}

fn micros(at: Nanos) -> u64 {
    at / MICRO
}

fn data(setup: &Setup, report: &Report, chronicle: &Chronicle, curve: &[Point]) -> Value {
    let (mut faults, mut members, mut watches, mut frames) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut requests: Vec<Request> = Vec::new();
    let mut pending: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    let mut said: BTreeMap<usize, (&str, &str, u64)> = BTreeMap::new();
    let mut end = report.violation.as_ref().map_or(0, |(_, at)| *at);
    for Moment { at, what } in &chronicle.moments {
        let t = micros(*at);
        end = end.max(*at);
        match what {
            Happened::Fault { text, members, until } => {
                faults.push(json!({"t": t, "text": text, "members": members, "until": micros(*until)}));
            }
            Happened::Started { member, text } => {
                members.push(json!({"t": t, "k": "started", "m": member, "text": text}));
            }
            Happened::Died { member, text } => {
                members.push(json!({"t": t, "k": "died", "m": member, "text": text}));
            }
            Happened::Status { member, role, standing, term, commit } => {
                let new = (*role, *standing, *term);
                let news = said.insert(*member, new) != Some(new);
                members.push(json!({
                    "t": t, "k": "status", "m": member, "role": role, "standing": standing, "term": term,
                    "commit": commit, "news": news,
                }));
            }
            Happened::Frame { from, to, arrives, text } => frames.push((*at, *from, *to, *arrives, text)),
            Happened::Asked { client, call, member, text } => {
                pending.insert((*client, *call), requests.len());
                requests.push(Request { at: *at, client: *client, member: *member, text: text.clone(), end: None });
            }
            Happened::Ended { client, call, text } => {
                if let Some(number) = pending.remove(&(*client, *call)) {
                    requests[number].end = Some((*at, text.clone()));
                }
            }
            Happened::Watch { client, text } => watches.push(json!({"t": t, "client": client, "text": text})),
        }
    }
    let kept = &frames[frames.len().saturating_sub(FRAMES_MAX)..];
    let frames_from = if kept.len() < frames.len() { kept.first().map_or(0, |(at, ..)| *at) } else { 0 };
    let frame = |(at, from, to, arrives, text): &(Nanos, usize, usize, Option<Nanos>, &String)| json!({"t": micros(*at), "f": from, "o": to, "a": arrives.map(micros), "text": text});
    let request = |request: &Request| {
        let (end, outcome) = request.end.as_ref().map_or((None, ""), |(at, text)| (Some(micros(*at)), text));
        let Request { at, client, member, text, .. } = request;
        json!({
            "t": micros(*at), "client": client, "member": member, "text": text, "end": end, "outcome": outcome,
        })
    };
    let violation = report
        .violation
        .as_ref()
        .map(|(violation, at)| json!({"t": micros(*at), "oracle": violation.oracle, "text": violation.text}));
    json!({
        "title": format!("Seed {}: {} members, {} clients", setup.seed, setup.members, setup.clients),
        "settings": setup.file(),
        "lanes": (0..setup.machines()).map(|member| format!("member {member}")).collect::<Vec<_>>(),
        "end": micros(end).max(1),
        "violation": violation,
        "faults": faults,
        "members": members,
        "watches": watches,
        "requests": requests.iter().map(request).collect::<Vec<_>>(),
        "frames": kept.iter().map(frame).collect::<Vec<_>>(),
        "framesFrom": micros(frames_from),
        "curve": curve.iter().map(|point| json!([micros(point.at), point.failures, point.samples])).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::SECOND;
    use crate::report::Keep;
    use crate::run::run_and_keep;

    #[test]
    fn a_page_has_everything_in_it_and_nothing_can_break_out() {
        let setup = Setup::draw_with(2, Some(10 * SECOND));
        let keep = Keep { chronicle: true, frames: true, ..Keep::default() };
        let report = run_and_keep(setup.clone(), keep);
        let mut chronicle = report.chronicle.clone().expect("asked for");
        let text = "put </script><!--<script> \u{2028}\"'".to_owned();
        chronicle.moments.push(Moment { at: 1, what: Happened::Asked { client: 0, call: 0, member: 0, text } });
        let page = page(&setup, &report, &chronicle, &[Point { at: 0, samples: 2, failures: 1 }]);
        assert_eq!(page.matches("</script>").count(), 2, "the data's element and the page's own");
        assert!(!page.contains("<!--"));
        assert!(
            ["http", "src=", "href=", "import", "fetch"].iter().all(|it| !PAGE.contains(it)),
            "it needs no network"
        );
        let from = page.find("id=\"data\">").expect("its place") + 10;
        let to = from + page[from..].find("</script>").expect("its end");
        let data: Value = serde_json::from_str(&page[from..to]).expect("JSON");
        assert_eq!(data["lanes"].as_array().map(Vec::len), Some(setup.machines()));
        for list in ["faults", "members", "watches", "requests", "frames", "curve"] {
            assert!(data[list].as_array().is_some_and(|list| !list.is_empty()), "{list}");
        }
        assert!(data["requests"].to_string().contains("<!--<script>"));
    }
}
