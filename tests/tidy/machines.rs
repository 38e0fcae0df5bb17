//! Machines and drivers: who decides, who carries, and whether the heads of files say the truth about it.

use crate::source::{Source, identifier};
use crate::{Finding, crate_sources, judge, repository};

/// First words of a file that is a machine, or a part of one.
const DECLARED: &str = "//! Machine: ";

/// What reaches out of a machine: it would wait, look at the world, or act beside its outputs.
const WORLDLY: &[&str] = &[
    ".await",
    "Instant::now",
    "crate::runtime",
    "dyn Runtime",
    "oneshot",
    "Notify",
    "atomic::",
    "Mutex",
    "tracing::",
];

/// What a driver would decide with: what an answer means, what is spoken, how long something may take.
const DECISIONS: &[&str] = &[
    "ErrorCode::",
    "VersionRange::new",
    "Duration::from_secs",
    "Duration::from_millis",
    "deadline::after",
    ".delay(",
    "now + ",
    "now - ",
    "now() + ",
    "now() - ",
];

/// What makes one duration of another.
const ARITHMETIC: &[&str] = &[" + ", " - ", " * ", " / "];

/// Names that outputs and the passing of time had before there was one name for each.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("poll", "poll_output"),
    ("next", "poll_output"),
    ("pop", "poll_output"),
    ("expire", "handle_timeout"),
    ("handle_time", "handle_timeout"),
    ("tick", "handle_timeout"),
];

pub(crate) fn is_machine(source: &Source) -> bool {
    source.text.starts_with(DECLARED)
}

fn is_driver(source: &Source) -> bool {
    source.path.ends_with("/driver.rs")
}

#[test]
fn machines_do_nothing_but_decide() {
    let sources = repository();
    judge(
        "machines",
        "a machine is told the time and what happened, and says what is to be done: it neither waits nor looks at the world, \
         wakes nobody, shares nothing, logs nothing. Make it an output, or hand the value in",
        crate_sources(sources).flat_map(worldly).collect(),
    );
}

fn worldly(source: &Source) -> Vec<Finding> {
    if !is_machine(source) {
        return Vec::new();
    }
    let found = WORLDLY.iter().flat_map(|pattern| source.find(pattern).map(move |at| (at, pattern)));
    found.map(|(at, pattern)| Finding::new(source, at, format!("`{pattern}` in a machine"))).collect()
}

#[test]
fn machines_have_one_contract() {
    let sources = repository();
    judge(
        "contract",
        "a file that is a machine, or a part of one, says so in its first line (`//! Machine: …`), and only there are \
         `handle_*` and `poll_output`. Inputs are `handle_*(now, …)`, outputs come from one `poll_output() -> \
         Option<Output>`, time passes by `handle_timeout(now)` and the next moment is `next_deadline()`. Driver code \
         that reacts is called otherwise (`on_*`)",
        crate_sources(sources).flat_map(breaches).collect(),
    );
}

/// A function outside of tests: where, its name, whether others can call it, and its signature.
fn functions(source: &Source) -> impl Iterator<Item = (usize, &str, bool, &str)> {
    source.find("fn ").map(|at| {
        let rest = &source.code[at + 3..];
        let name = identifier(rest);
        let signature = &rest[..rest.find(['{', ';']).unwrap_or(rest.len())];
        let line = source.code[..at].rfind('\n').map_or(0, |end| end + 1);
        (at, name, source.code[line..at].trim_start().starts_with("pub"), signature)
    })
}

fn breaches(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut breach = |at, text: String| findings.push(Finding::new(source, at, text));
    if !is_machine(source) {
        for (at, name, ..) in functions(source) {
            if name.starts_with("handle_") || name == "poll_output" {
                breach(at, format!("`{name}` in a file that is not declared as a machine"));
            }
        }
        return findings;
    }
    let (mut outputs, mut deadline, mut timeout) = (0, None, false);
    for (at, name, public, signature) in functions(source) {
        let gives = signature.rsplit_once("->").map_or("", |(_, gives)| gives.trim());
        match name {
            "poll_output" => {
                outputs += 1;
                if outputs > 1 || !gives.starts_with("Option<") {
                    breach(at, "one `poll_output`, which gives an `Option`".to_owned());
                }
            }
            "next_deadline" => deadline = Some(at),
            "handle_timeout" => timeout = true,
            _ if !public => {}
            _ if name.starts_with("poll_") => {
                breach(at, format!("`{name}`: outputs come from `poll_output`"))
            }
            _ if gives == "Option<Instant>" => breach(at, format!("`{name}` is called `next_deadline`")),
            _ => {
                if let Some((_, right)) = OTHER_NAMES.iter().find(|(other, _)| *other == name) {
                    breach(at, format!("`{name}` is called `{right}`"));
                }
            }
        }
    }
    match deadline {
        Some(at) if !timeout => breach(at, "`next_deadline` without `handle_timeout`".to_owned()),
        None if timeout => breach(0, "`handle_timeout` without `next_deadline`".to_owned()),
        _ => {}
    }
    findings
}

#[test]
fn drivers_decide_nothing() {
    let sources = repository();
    judge(
        "drivers",
        "a driver owns tasks, sockets and timers, and carries inputs and outputs of a machine. What a code means, which \
         version is spoken and how long something may take belongs to the machine, a table or the settings",
        crate_sources(sources).flat_map(decisions).collect(),
    );
}

fn decisions(source: &Source) -> Vec<Finding> {
    if !is_driver(source) {
        return Vec::new();
    }
    let found = DECISIONS.iter().flat_map(|pattern| source.find(pattern).map(move |at| (at, *pattern)));
    // The last part of a name such as `request_timeout`.
    let timeouts = source.code.match_indices("timeout").filter(|(at, word)| {
        let follows = &source.code[at + word.len()..];
        !source.is_test(*at) && ARITHMETIC.iter().any(|operator| follows.starts_with(operator))
    });
    found
        .chain(timeouts)
        .map(|(at, pattern)| Finding::new(source, at, format!("`{pattern}` in a driver")))
        .collect()
}

#[test]
fn heads_say_the_truth_about_machines() {
    let sources = repository();
    let mut findings = Vec::new();
    for source in crate_sources(sources).filter(|source| !source.path.starts_with("src/wire/")) {
        findings.extend(false_claims(source, sources));
    }
    let all_carry = crate_sources(sources).all(|source| decisions(source).is_empty());
    for source in sources.iter().filter(|source| source.path.starts_with("docs/") && !all_carry) {
        for (at, _) in source.text.match_indices("decides nothing") {
            findings.push(Finding::new(source, at, "`decides nothing`, while a driver is listed that does"));
        }
    }
    judge(
        "heads",
        "`decides nothing` stands only over a driver without decisions, `No I/O` and `no clock` only over a machine without \
         any: keep the promise or take the sentence away",
        findings,
    );
}

fn false_claims(source: &Source, sources: &[Source]) -> Vec<Finding> {
    let head: String = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .flat_map(|line| [line.trim_start_matches("//!").trim(), " "])
        .collect();
    let head = head.to_lowercase();
    let mut findings = Vec::new();
    if head.contains("decides nothing") {
        // The head of a folder speaks of the folder's driver.
        let driver = match source.path.strip_suffix("mod.rs") {
            Some(folder) => sources.iter().find(|other| other.path == format!("{folder}driver.rs")),
            None => Some(source).filter(|source| is_driver(source)),
        };
        if driver.is_none_or(|driver| !decisions(driver).is_empty()) {
            findings.push(Finding::new(source, 0, "`decides nothing`"));
        }
    }
    for claim in ["no i/o", "no clock"] {
        if head.contains(claim) && !(is_machine(source) && worldly(source).is_empty()) {
            findings.push(Finding::new(source, 0, format!("`{claim}`")));
        }
    }
    findings
}

mod planted {
    use super::*;

    fn texts(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.text)).collect()
    }

    fn machine(text: &str) -> Source {
        Source::new("src/net/machine.rs", format!("{DECLARED}what it knows.\n{text}"))
    }

    #[test]
    fn purity() {
        let wrong = |text: &str| texts(worldly(&machine(text)));
        let right =
            "fn poll_output() { now() } // tracing::\n#[cfg(test)]\nmod tests { fn f() { Instant::now() } }";
        assert_eq!(wrong(right), [""; 0]);
        for text in [
            "a().await",
            "Instant::now()",
            "use tokio::sync::{oneshot, mpsc};",
            "let wake: Arc<Notify>;",
            "use std::sync::atomic::AtomicU64;",
            "state: Mutex<u8>",
            "tracing::warn!(1)",
        ] {
            assert_eq!(wrong(text).len(), 1, "{text}");
        }
        assert!(worldly(&Source::new("src/net/connect.rs", "Instant::now()")).is_empty(), "no machine");
    }

    #[test]
    fn contract() {
        let wrong = |text: &str| texts(breaches(&machine(text)));
        let right = "pub(super) fn handle_frame(&mut self, now: Instant) {}\nfn expire(&self) {}\n\
                     pub(super) fn poll_output(&mut self) -> Option<Output> {}\n\
                     pub(super) fn next_deadline(&self) -> Option<Instant> {}\nfn due(&self) -> Option<Instant> {}\n\
                     pub(super) fn handle_timeout(&mut self, now: Instant) {}";
        assert_eq!(wrong(right), [""; 0]);
        for text in [
            "pub(crate) fn poll_query(&mut self) -> Option<Query> {}",
            "fn poll_output(&mut self) -> Vec<Output> {}",
            "fn poll_output(&mut self) -> Option<A> {}\nimpl B { fn poll_output(&mut self) -> Option<A> {} }",
            "pub(crate) fn next_retry(&self) -> Option<Instant> {}",
            "pub(crate) fn expire(&mut self, now: Instant) {}",
            "pub(crate) fn next_deadline(&self) -> Option<Instant> {}",
            "pub(crate) fn handle_timeout(&mut self, now: Instant) {}",
        ] {
            assert_eq!(wrong(text).len(), 1, "{text}");
        }
        let undeclared = |text: &str| texts(breaches(&Source::new("src/net/connect.rs", text)));
        assert_eq!(undeclared("fn handle_frame() {}\nfn handle() {}").len(), 1);
        assert_eq!(undeclared("fn poll_output() {}").len(), 1);
        assert_eq!(undeclared("#[cfg(test)]\nmod tests { fn handle_frame() {} }"), [""; 0]);
    }

    #[test]
    fn drivers() {
        let wrong = |text: &str| texts(decisions(&Source::new("src/net/driver.rs", text)));
        assert_eq!(wrong("self.machine.handle_frame(Instant::now(), frame); let room = left - 1;"), [""; 0]);
        for text in [
            "if code == ErrorCode::NONE {}",
            "VersionRange::new(3, 7)",
            "let deadline = now + self.patience;",
            "sleep_until(Instant::now() + pause)",
            "config.request_timeout / 2",
            "const WAIT: Duration = Duration::from_secs(1);",
            "backoff.delay(failures, dice)",
        ] {
            assert_eq!(wrong(text).len(), 1, "{text}");
        }
        assert!(decisions(&Source::new("src/net/config.rs", "now + timeout")).is_empty(), "no driver");
    }

    #[test]
    fn heads() {
        let wrong =
            |path: &str, text: &str, others: &[Source]| texts(false_claims(&Source::new(path, text), others));
        let carries = Source::new("src/net/driver.rs", "fn run() {}");
        let decides = Source::new("src/net/driver.rs", "fn run() { now + pause }");
        let says = "//! Moves bytes, and decides\n//! nothing.\n";
        assert_eq!(wrong("src/net/mod.rs", says, &[carries]), [""; 0]);
        assert_eq!(wrong("src/net/mod.rs", says, &[decides]).len(), 1);
        assert_eq!(wrong("src/net/driver.rs", says, &[]), [""; 0]);
        assert_eq!(wrong("src/net/driver.rs", &format!("{says}fn run() {{ now + pause }}"), &[]).len(), 1);
        assert_eq!(wrong("src/net/listener.rs", says, &[]).len(), 1);
        let pure = "//! Machine: queues. No I/O, no\n//! clock.\n";
        assert_eq!(wrong("src/net/machine.rs", pure, &[]), [""; 0]);
        assert_eq!(wrong("src/net/machine.rs", &format!("{pure}use tokio::sync::oneshot;"), &[]).len(), 2);
        assert_eq!(wrong("src/net/queue.rs", "//! Queues. No I/O.", &[]).len(), 1);
    }
}
