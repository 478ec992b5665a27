//! What h2load and etcd's benchmark print, read.

use anyhow::{Context, Result, ensure};

/// One run of h2load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct H2Load {
    pub(crate) succeeded: u64,
    pub(crate) seconds: f64,
    /// Body bytes received, gRPC's framing included.
    pub(crate) data_bytes: u64,
    /// The shortest and the mean time of a request.
    pub(crate) fastest_seconds: f64,
    pub(crate) mean_seconds: f64,
}

/// One run of etcd's benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Benchmark {
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_seconds: f64,
    pub(crate) p99_seconds: f64,
}

/// Reads h2load's summary. Requests that it counts as failed make it an error; gRPC's own status
/// it does not see, so what was written is counted elsewhere.
pub(crate) fn h2load(text: &str) -> Result<H2Load> {
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(start))
            .with_context(|| format!("h2load did not print {start:?}:\n{text}"))
    };
    let requests = line("requests:")?;
    let succeeded = count_before(requests, "succeeded")?;
    for kind in ["failed", "errored", "timeout"] {
        let count = count_before(requests, kind)?;
        ensure!(count == 0, "{count} requests {kind}: {requests}");
    }
    let seconds = line("finished in ")?.split(',').next().and_then(duration);
    let mut times = line("time for request:")?.split_whitespace().map(duration);
    let (fastest, _, mean) = (times.next(), times.next(), times.next());
    let traffic = line("traffic:")?;
    let data_bytes = last_in_parentheses(traffic);
    Ok(H2Load {
        succeeded,
        seconds: seconds.context("h2load printed no duration")?,
        data_bytes: data_bytes.with_context(|| format!("no byte counts in {traffic:?}"))?,
        fastest_seconds: fastest.flatten().context("h2load printed no fastest time")?,
        mean_seconds: mean.flatten().context("h2load printed no mean time")?,
    })
}

/// Reads the summary of etcd's benchmark; any failed request makes it an error.
pub(crate) fn benchmark(text: &str) -> Result<Benchmark> {
    ensure!(!text.contains("Error distribution"), "requests failed:\n{text}");
    let number = |start: &str| {
        let rest = text.lines().find_map(|line| line.trim().strip_prefix(start));
        let word = rest.and_then(|rest| rest.split_whitespace().next());
        let number = word.and_then(|word| word.parse::<f64>().ok());
        number.with_context(|| format!("benchmark did not print {start:?}:\n{text}"))
    };
    Ok(Benchmark {
        rate: number("Requests/sec:")?,
        seconds: number("Total:")?,
        p50_seconds: number("50% in")?,
        p99_seconds: number("99% in")?,
    })
}

fn count_before(line: &str, word: &str) -> Result<u64> {
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let position = words.iter().position(|found| *found == word);
    let count = position.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok());
    count.with_context(|| format!("no count of {word} in {line:?}"))
}

/// The last number in parentheses, which is the body's bytes.
fn last_in_parentheses(traffic: &str) -> Option<u64> {
    let inner = traffic.rsplit_once('(')?.1.split_once(')')?.0;
    inner.parse().ok()
}

/// `1.50s`, `12.3ms` or `730us`, in seconds.
fn duration(text: &str) -> Option<f64> {
    let text = text.trim();
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, unit) =
        units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)))?;
    number.parse::<f64>().ok().map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H2LOAD: &str = "\
finished in 782.90ms, 2554.62 req/s, 171.61KB/s
requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 134.36KB (137580) total, 4.49KB (4600) headers (space savings 93.95%), 66.41KB (68000) data
                     min         max         mean         sd        +/- sd
time for request:    13.67ms    730.65ms    361.25ms    144.60ms    82.15%
";

    const BENCHMARK: &str = "\
Summary:
  Total:\t0.5164 secs.
  Requests/sec:\t387.2994

Latency distribution:
  50% in 0.0012 secs.
  99% in 0.0266 secs.
";

    #[test]
    fn the_summary_of_h2load_is_read() {
        let found = h2load(H2LOAD).unwrap();
        assert_eq!((found.succeeded, found.data_bytes), (2000, 68000));
        assert!((found.seconds - 0.7829).abs() < 1e-9);
        assert!((found.fastest_seconds - 0.01367).abs() < 1e-9);
        assert!((found.mean_seconds - 0.36125).abs() < 1e-9);
    }

    #[test]
    fn failed_requests_are_an_error() {
        let failed = H2LOAD.replace("0 failed", "3 failed");
        assert!(h2load(&failed).unwrap_err().to_string().contains("3 requests failed"));
        let failed = format!("{BENCHMARK}Error distribution:\n  [3]\tetcdserver: timeout\n");
        assert!(benchmark(&failed).is_err());
    }

    #[test]
    fn the_summary_of_etcds_benchmark_is_read() {
        let found = benchmark(BENCHMARK).unwrap();
        assert_eq!((found.rate, found.seconds), (387.2994, 0.5164));
        assert_eq!((found.p50_seconds, found.p99_seconds), (0.0012, 0.0266));
    }

    #[test]
    fn an_unfamiliar_summary_is_an_error() {
        assert!(h2load("").is_err());
        assert!(benchmark("Total: many").is_err());
    }
}
