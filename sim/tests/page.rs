//! The page of a run in a real browser: what it shows, and what its controls do.
//!
//! Without chromium this says so and passes; with `QUORATE_CI=1` it is installed, or the test fails.

use std::fs;
use std::path::Path;
use std::process::Command;

use quorate_sim::causality::Point;
use quorate_sim::check::Violation;
use quorate_sim::chronicle::{Happened, Moment};
use quorate_sim::heap::{MILLI, SECOND};
use quorate_sim::page::page;
use quorate_sim::report::Keep;
use quorate_sim::run::run_and_keep;
use quorate_sim::swarm::Setup;

/// What a key may try.
const HOSTILE: &str = "put </script><img src=x onerror=\"document.title='taken over'\"><b>bold</b> x";

/// Runs in the page, behind its own script; what it finds is left in the document.
const PROBE: &str = r#"<script>
const found = [];
const check = (name, holds) => found.push((holds ? "ok " : "WRONG ") + name);
const near = (a, b) => Math.abs(a - b) <= 2;
const colors = () => {
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
  for (let at = 0; at < pixels.length; at += 4) seen.add((pixels[at] << 16 | pixels[at + 1] << 8 | pixels[at + 2]).toString(16));
  return seen;
};
const text = () => el("events").textContent;
try {
  check("the title names the seed", el("title").textContent.startsWith("Seed 4:"));
  check("the verdict is shown", el("verdict").textContent.includes("liveness: <b>nothing</b> moved") && el("verdict").className === "broken");
  check("nobody took over", document.title === "Quorate simulation" && document.images.length === 0 && !document.querySelector("td b, #verdict b"));
  check("hostile keys are text", list.some(e => e.text.includes("<\/script><img src=x onerror=")));
  const all = colors();
  check("leaders are drawn", all.has("8fd0a1"));
  check("followers are drawn", all.has("c9d8e8"));
  check("members that are down are drawn", all.has("5d6773"));
  check("the violation is drawn", all.has("b3122a"));
  check("the curve is drawn", all.has("8a2be2"));
  check("answers are drawn", all.has("3f7fbf"));
  check("every member has a lane", canvas.dataset.lanes === String(data.lanes.length));
  check("the whole run is in view", view.from === 0 && view.to === data.end);
  const requests = Number(canvas.dataset.requests);
  check("requests are drawn", requests > 100);
  el("in").click();
  check("zoom in halves", near((view.to - view.from) * 2, data.end));
  check("fewer requests are in view", Number(canvas.dataset.requests) < requests);
  el("out").click();
  check("zoom out doubles", view.from === 0 && near(view.to, data.end));
  el("in").click(); el("in").click();
  const before = view.from;
  el("right").click();
  check("later", view.from > before);
  el("left").click();
  check("earlier", near(view.from, before));
  el("to-violation").click();
  check("to the violation", view.from <= data.violation.t && view.to >= data.violation.t && view.to - view.from <= 2e6 + 2);
  check("the violation is listed", text().includes("<b>nothing</b> moved"));
  el("all").click();
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, cancelable: true }));
  check("the wheel zooms", view.to - view.from < data.end);
  el("all").click();
  const mid = data.frames[Math.floor(data.frames.length / 2)].t;
  show(mid - 50000, mid + 50000);
  const messages = Number(canvas.dataset.messages);
  check("messages are drawn", messages > 0 && messages <= MESSAGES_MAX);
  el("messages").click();
  check("messages can be hidden", canvas.dataset.messages === "0");
  el("messages").click();
  el("member-0").click();
  check("a member can be hidden", Number(canvas.dataset.lanes) === data.lanes.length - 1 && Number(canvas.dataset.messages) < messages);
  check("what it did is hidden too", !text().includes("member 0"));
  el("member-0").click();
  el("all").click();
  el("filter").value = "K001"; el("filter").dispatchEvent(new Event("input"));
  const rows = [...el("events").rows];
  check("the filter finds a key", rows.length > 0 && rows.every(row => row.textContent.toLowerCase().includes("k001")) && Number(canvas.dataset.requests) < requests);
  rows[0].click();
  check("a click goes there", near((view.from + view.to) / 2, Math.max(1e6, Number(rows[0].cells[0].textContent) * 1e6)));
  el("filter").value = "no such thing"; el("filter").dispatchEvent(new Event("input"));
  check("the filter may find nothing", el("events").rows.length === 0);
  el("filter").value = ""; el("filter").dispatchEvent(new Event("input"));
  el("all").click();
  const hit = hits.find(h => h.about.includes("Leader"));
  const over = new MouseEvent("pointermove", { bubbles: true });
  Object.defineProperties(over, { offsetX: { value: (hit.a + hit.b) / 2 }, offsetY: { value: hit.y + hit.h - 2 } });
  canvas.dispatchEvent(over);
  check("pointing explains", el("hint").textContent.length > 10);
} catch (error) { found.push("WRONG " + error); }
const results = document.body.appendChild(document.createElement("pre"));
results.id = "results"; results.textContent = found.join("\n");
</script>
</html>"#;

fn browser() -> Option<&'static str> {
    let find = || {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|it| it.status.success()))
    };
    let is_required = std::env::var("QUORATE_CI").is_ok_and(|value| value == "1");
    find().or_else(|| {
        if !is_required {
            eprintln!("skipped: no chromium here (apt-get install chromium)");
            return None;
        }
        let install = "apt-get install -y --no-install-recommends chromium";
        let script = format!("{install} || {{ apt-get update && {install}; }}");
        let _ = Command::new("sh").args(["-c", &script]).status();
        Some(find().expect("QUORATE_CI=1 requires chromium, and it cannot be installed"))
    })
}

fn open(browser: &str, path: &Path) -> String {
    let arguments =
        ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000"];
    // A browser that hangs is to fail the test, not to hang it.
    let output = Command::new("timeout")
        .args(["120", browser])
        .args(arguments)
        .args(["--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", path.with_extension("profile").display()))
        .arg(format!("file://{}", path.display()))
        .output()
        .expect("the browser starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_browser_shows_the_page_and_its_controls_work() {
    let Some(browser) = browser() else { return };
    let setup = Setup::draw_with(4, Some(10 * SECOND));
    let mut report = run_and_keep(setup.clone(), Keep { chronicle: true, frames: true, ..Keep::default() });
    let mut chronicle = report.chronicle.take().expect("asked for");
    let hostile = Happened::Asked { client: 0, call: u64::MAX, member: 0, text: HOSTILE.into() };
    chronicle.moments.push(Moment { at: 5 * SECOND, what: hostile });
    report.violation = Some((Violation::new("liveness", "<b>nothing</b> moved"), 9 * SECOND));
    let curve = [(0, 1), (4_000, 2), (4_100, 6), (9_000, 6)];
    let curve = curve.map(|(at, failures)| Point { at: at * MILLI, samples: 6, failures });
    let text = page(&setup, &report, &chronicle, &curve);
    let (head, _) = text.rsplit_once("</html>").expect("a whole page");
    let path = std::env::temp_dir().join(format!("quorate-sim-{}.html", std::process::id()));
    fs::write(&path, format!("{head}{PROBE}")).expect("a temporary file");
    let document = open(browser, &path);
    let results = document.split_once("<pre id=\"results\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (results, _) = results.unwrap_or_else(|| panic!("the page's script did not end: {document:.2000}"));
    assert!(!results.contains("WRONG"), "{results}");
    assert!(results.lines().filter(|line| line.starts_with("ok ")).count() >= 29, "{results}");
    fs::remove_file(&path).expect("just written");
    let _ = fs::remove_dir_all(path.with_extension("profile"));
}
