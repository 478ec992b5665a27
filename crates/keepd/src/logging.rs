//! The server's log: one line an event, in the shape etcd's tools expect.
//!
//! JSON lines begin with `level`, `ts`, `caller`, `msg`; the console form is tab separated. A log
//! that cannot be written is dropped: a full log disk must not stop the store.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use keepd_env::{Clock, SystemClock};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::flags::{LogFormat, LogLevel, LogOptions};

/// Sets up the process's log.
///
/// # Errors
/// If a log file cannot be opened.
pub(crate) fn init(options: &LogOptions) -> Result<(), String> {
    let mut outputs = Vec::new();
    for output in &options.outputs {
        match output.as_str() {
            "default" | "stderr" | "systemd/journal" => outputs.push(Output::Stderr),
            "stdout" => outputs.push(Output::Stdout),
            "/dev/null" => {
                outputs.clear();
                break;
            }
            path => {
                // Messages about values that do not open name their keys.
                let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
                let file = file.map_err(|error| format!("open {path}: {error}"))?;
                outputs.push(Output::File(Mutex::new(file)));
            }
        }
    }
    let level = match options.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let layer = LineLayer { format: options.format, outputs, clock: Arc::new(SystemClock::new()) };
    // A second server in one process (a test) keeps the first one's log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(level)).try_init();
    Ok(())
}

/// The field that carries values whose names are not known at compile time, as a JSON object.
const DYNAMIC_FIELDS: &str = "dynamic_fields";

/// Logs a message with values by name.
pub(crate) fn line(level: Level, message: &str, fields: &[(&'static str, String)]) {
    let fields: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    let dynamic_fields = serde_json::Value::from(fields).to_string();
    if level == Level::ERROR {
        tracing::error!(dynamic_fields, "{message}");
    } else if level == Level::WARN {
        tracing::warn!(dynamic_fields, "{message}");
    } else {
        tracing::info!(dynamic_fields, "{message}");
    }
}

enum Output {
    Stderr,
    Stdout,
    File(Mutex<File>),
}

/// Writes an event as a line.
struct LineLayer {
    format: LogFormat,
    outputs: Vec<Output>,
    clock: Arc<dyn Clock>,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        // Libraries talk at debug level only when something is wrong with them.
        metadata.target().starts_with("keepd") || *metadata.level() <= Level::WARN
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let wall = self.clock.wall();
        let ts = timestamp(wall.as_secs(), wall.subsec_micros());
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        let file = metadata.file().unwrap_or_default();
        let file = file.rsplit_once("/src/").map_or(file, |(krate, name)| {
            let start = krate.rfind('/').map_or(0, |slash| slash + 1);
            let _ = name;
            &file[start..]
        });
        let caller = format!("{file}:{}", metadata.line().unwrap_or_default());
        let line = match self.format {
            LogFormat::Json => fields.json(level, &ts, &caller),
            LogFormat::Console => fields.console(level, &ts, &caller),
        };
        for output in &self.outputs {
            let _ = match output {
                Output::Stderr => io::stderr().lock().write_all(line.as_bytes()),
                Output::Stdout => io::stdout().lock().write_all(line.as_bytes()),
                Output::File(file) => file.lock().write_all(line.as_bytes()),
            };
        }
    }
}

/// RFC 3339 in UTC with microseconds, from unix time (days to date by Hinnant's algorithm).
fn timestamp(seconds: u64, micros: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The message and the named values of an event, already as JSON.
#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<(Cow<'static, str>, serde_json::Value)>,
}

impl Fields {
    fn json(&self, level: &str, ts: &str, caller: &str) -> String {
        let message = serde_json::Value::from(self.message.as_str());
        let mut line =
            format!(r#"{{"level":"{level}","ts":"{ts}","caller":"{caller}","msg":{message}"#);
        for (name, value) in &self.values {
            // Writing into a string cannot fail.
            let _ = write!(line, ",\"{}\":{value}", name.replace('_', "-"));
        }
        line.push_str("}\n");
        line
    }

    fn console(&self, level: &str, ts: &str, caller: &str) -> String {
        let mut line = format!("{ts}\t{level}\t{caller}\t{}", self.message);
        if !self.values.is_empty() {
            let values: Vec<_> = self
                .values
                .iter()
                .map(|(name, value)| format!("\"{}\": {value}", name.replace('_', "-")))
                .collect();
            let _ = write!(line, "\t{{{}}}", values.join(", "));
        }
        line.push('\n');
        line
    }

    fn push(&mut self, field: &Field, value: serde_json::Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else if field.name() == DYNAMIC_FIELDS {
            let object = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            if let Some(serde_json::Value::Object(object)) = object {
                self.values.extend(object.into_iter().map(|(name, value)| (name.into(), value)));
            }
        } else {
            self.values.push((field.name().into(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_dates() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(951_782_400, 7), "2000-02-29T00:00:00.000007Z");
        assert_eq!(timestamp(1_795_500_000, 5), "2026-11-24T06:00:00.000005Z");
    }
}
