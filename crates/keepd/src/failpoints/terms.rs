//! The terms of a place, as gofail reads them: `[N%][N*]act[(value)]`, several joined by `->`, of which
//! the first that may act does.

use std::time::Duration;

use keepd_gotext::GoDuration;

/// The effect of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    Off,
    /// Leaves out what follows, where that is possible.
    Return,
    /// Whoever is there waits.
    Sleep(Duration),
    /// The process ends.
    Panic,
    /// A line is printed.
    Print,
}

/// A condition on a term.
#[derive(Clone, Debug, PartialEq)]
enum Modifier {
    /// So many more times.
    Count(u64),
    /// With a probability.
    Percent(f64),
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    modifiers: Vec<Modifier>,
    act: Act,
}

/// Terms with their text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Terms {
    text: String,
    chain: Vec<Term>,
    count: u64,
}

impl Terms {
    /// Reads terms; none if they are not ones.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let chain = text.split("->").map(term).collect::<Option<Vec<_>>>()?;
        Some(Self { text: text.to_owned(), chain, count: 0 })
    }

    /// The text that was read.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The number of times that a term acted.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The effect this time.
    pub(super) fn evaluate(&mut self) -> Option<Act> {
        let term = self.chain.iter_mut().find_map(|term| {
            term.modifiers.iter_mut().all(Modifier::allows).then(|| term.act.clone())
        });
        self.count += u64::from(term.is_some());
        term
    }
}

impl Modifier {
    fn allows(&mut self) -> bool {
        match self {
            Self::Count(left) => {
                let is_left = *left > 0;
                *left = left.saturating_sub(1);
                is_left
            }
            Self::Percent(percent) => {
                let random = keepd_env::Env::real().random.next_u64();
                // 53 bits are what a float holds.
                (random >> 11) as f64 / (1_u64 << 53) as f64 * 100.0 <= *percent
            }
        }
    }
}

fn term(text: &str) -> Option<Term> {
    let mut rest = text;
    let mut modifiers = Vec::new();
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (modifier, after) = match after.split_at_checked(1)? {
            ("*", after) => (Modifier::Count(number.parse().ok()?), after),
            ("%", after) => (Modifier::Percent(number.parse().ok()?), after),
            _ => return None,
        };
        modifiers.push(modifier);
        rest = after;
    }
    let (name, value) = match rest.split_once('(') {
        Some((name, value)) => (name, Some(value.strip_suffix(')')?)),
        None => (rest, None),
    };
    let act = match name {
        "off" => Act::Off,
        "return" => Act::Return,
        "panic" => Act::Panic,
        "print" => Act::Print,
        "sleep" => Act::Sleep(time(value?)?),
        _ => return None,
    };
    Some(Term { modifiers, act })
}

/// Milliseconds, or a duration of Go in quotes.
fn time(value: &str) -> Option<Duration> {
    match value.strip_prefix('"') {
        Some(quoted) => {
            let duration: GoDuration = quoted.strip_suffix('"')?.parse().ok()?;
            Some(duration.or_zero())
        }
        None => value.parse().ok().map(Duration::from_millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(text: &str, times: usize) -> Vec<Option<Act>> {
        let mut terms = Terms::parse(text).unwrap();
        (0..times).map(|_| terms.evaluate()).collect()
    }

    #[test]
    fn terms_are_read_as_by_gofail() {
        let millis = |count| Some(Act::Sleep(Duration::from_millis(count)));
        for (text, act) in [
            ("panic", Some(Act::Panic)),
            ("panic(\"reason\")", Some(Act::Panic)),
            ("sleep(1000)", millis(1000)),
            ("sleep(\"1.5s\")", millis(1500)),
            ("return", Some(Act::Return)),
            ("return(\"no space\")", Some(Act::Return)),
            ("off", Some(Act::Off)),
            ("print", Some(Act::Print)),
            ("0%panic", None),
            ("0*panic", None),
            ("100%1*sleep(1)", millis(1)),
            ("100.0%panic", Some(Act::Panic)),
        ] {
            assert_eq!(acts(text, 1), [act], "{text}");
        }
        for text in
            ["", "sleep", "sleep(x)", "sleep(1", "5panic", "5", "x%panic", "panic->", "1.2*panic"]
        {
            assert_eq!(Terms::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_chain_goes_on_with_the_next_when_one_is_used_up() {
        let expected = [Some(Act::Off), Some(Act::Off), Some(Act::Panic), None];
        assert_eq!(acts("2*off->1*panic", 4), expected);
        let mut terms = Terms::parse("1*print").unwrap();
        terms.evaluate();
        terms.evaluate();
        assert_eq!((terms.count(), terms.text()), (1, "1*print"));
        let half = acts("50.0%print", 2000).iter().flatten().count();
        assert!((700..1300).contains(&half), "{half}");
    }
}
