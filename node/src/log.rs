//! Log lines in the shape operators know from etcd: level, ts, caller, msg, then fields. Two shapes, JSON and console.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Starts logging. Call once.
///
/// # Panics
/// If logging was started before.
pub fn start(level: Level, format: LogFormat, to_stdout: bool) {
    // The transport's own chatter is of interest to nobody below "debug everything".
    let own = format!("off,quorate={level},quorate_node={level}");
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::new(own)).event_format(Lines(format));
    if to_stdout {
        subscriber.with_writer(std::io::stdout).init();
    } else {
        subscriber.with_writer(std::io::stderr).init();
    }
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let ts = timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let caller = match (metadata.file(), metadata.line()) {
            (Some(file), Some(line)) => format!("{}:{line}", short(file)),
            _ => metadata.target().to_owned(),
        };
        writeln!(writer, "{}", line(self.0, level, &ts, &caller, fields))
    }
}

fn line(format: LogFormat, level: &str, ts: &str, caller: &str, fields: Fields) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut line = match format {
        LogFormat::Json => {
            let (caller, msg) = (quoted(caller), quoted(&fields.message));
            format!(r#"{{"level":"{level}","ts":"{ts}","caller":{caller},"msg":{msg}"#)
        }
        LogFormat::Console if fields.rest.is_empty() => return format!("{ts}\t{level}\t{caller}\t{}", fields.message),
        LogFormat::Console => {
            return format!("{ts}\t{level}\t{caller}\t{}\t{}", fields.message, Value::from(fields.rest));
        }
    };
    for (name, value) in fields.rest {
        let _ = write!(line, ",{}:{value}", quoted(&name));
    }
    line.push('}');
    line
}

/// The last folder and the file, as zap shortens callers.
fn short(file: &str) -> &str {
    file.rmatch_indices('/').nth(1).map_or(file, |(at, _)| &file[at + 1..])
}

/// RFC 3339 with microseconds, in UTC.
fn timestamp(since_epoch: Duration) -> String {
    const DAY: u64 = 86_400;
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day since 1970-01-01. (Hinnant, "chrono-compatible low-level date algorithms")
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    let shifted = days + 719_468; // since 0000-03-01
    let (era, of_era) = (shifted / DAYS_PER_ERA, shifted % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.rest.insert(field.name().replace('_', "-"), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, format!("{value:?}").into());
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_calendar_dates() {
        let at = |seconds, micros: u32| timestamp(Duration::new(seconds, micros * 1000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400, 1), "2000-02-29T00:00:00.000001Z");
        assert_eq!(at(1_709_251_199, 999_999), "2024-02-29T23:59:59.999999Z");
        assert_eq!(at(4_102_444_800, 0), "2100-01-01T00:00:00.000000Z");
    }

    #[test]
    fn lines_have_etcds_keys_in_etcds_order() {
        let fields = || {
            let mut fields = Fields { message: "say \"hi\"".to_owned(), rest: Map::new() };
            fields.rest.insert("n".to_owned(), 3.into());
            fields
        };
        assert_eq!(
            line(LogFormat::Json, "info", "T", "src/a.rs:1", fields()),
            r#"{"level":"info","ts":"T","caller":"src/a.rs:1","msg":"say \"hi\"","n":3}"#
        );
        assert_eq!(line(LogFormat::Console, "warn", "T", "c", fields()), "T\twarn\tc\tsay \"hi\"\t{\"n\":3}");
        assert_eq!(short("node/src/grpc/watch.rs"), "grpc/watch.rs");
    }
}
