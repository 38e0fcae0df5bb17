//! The command line, read the way getopt reads kcat's: flags in clusters, values attached or not, files anywhere.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use super::escape;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Produce,
    Consume,
    List,
    Query,
    Group,
}

/// Where consuming begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Beginning,
    End,
    Stored,
    At(i64),
    /// So many records before the end.
    Tail(i64),
    /// The first record with this timestamp (milliseconds) or a later one.
    Timestamp(i64),
}

/// A look-up of `-Q`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) timestamp: i64,
}

/// A command line that makes sense.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) mode: Option<Mode>,
    pub(super) brokers: Option<String>,
    pub(super) topic: Option<String>,
    pub(super) queries: Vec<Query>,
    pub(super) group: Option<String>,
    /// Files to produce, or topics to subscribe to.
    pub(super) operands: Vec<OsString>,
    /// `None` for any.
    pub(super) partition: Option<i32>,
    pub(super) format: Option<Vec<u8>>,
    pub(super) json: bool,
    pub(super) delimiter: Vec<u8>,
    pub(super) key_delimiter: Option<Vec<u8>>,
    pub(super) fixed_key: Option<Vec<u8>>,
    pub(super) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) lines: bool,
    pub(super) tee: bool,
    pub(super) null: bool,
    /// `None` for no limit.
    pub(super) count: Option<u64>,
    pub(super) start: Option<Start>,
    /// Timestamp in milliseconds at which a partition ends.
    pub(super) stop: Option<i64>,
    pub(super) exit_at_end: bool,
    pub(super) keep_going: bool,
    pub(super) quiet: bool,
    pub(super) unbuffered: bool,
    /// Limit for metadata and the like.
    pub(super) patience: Duration,
    /// `-X` and `-z`, in order.
    pub(super) properties: Vec<(String, String)>,
    /// `-F`.
    pub(super) config_files: Vec<OsString>,
    /// False if `-F` names the configuration, or none at all.
    pub(super) search_config: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: None,
            brokers: None,
            topic: None,
            queries: Vec::new(),
            group: None,
            operands: Vec::new(),
            partition: None,
            format: None,
            json: false,
            delimiter: b"\n".to_vec(),
            key_delimiter: None,
            fixed_key: None,
            headers: Vec::new(),
            lines: false,
            tee: false,
            null: false,
            count: None,
            start: None,
            stop: None,
            exit_at_end: false,
            keep_going: false,
            quiet: false,
            unbuffered: false,
            patience: Duration::from_secs(5),
            properties: Vec::new(),
            config_files: Vec::new(),
            search_config: true,
        }
    }
}

/// What a command line asks for.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Run(Box<Options>),
    Help,
    Version,
}

/// Flags with a value.
const VALUED: &[u8] = b"GtpbzoDKkHdFXcfsrm";
/// Flags without.
const PLAIN: &[u8] = b"PCLQeEOqvTuZlVhJ";
/// The wait where no timeout was given: practically for ever.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

/// Reads a command line.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, String> {
    let mut options = Options::default();
    let mut topics = Vec::new();
    let mut rest: VecDeque<OsString> = arguments.into_iter().collect();
    while let Some(argument) = rest.pop_front() {
        let bytes = argument.as_encoded_bytes();
        if bytes == b"--" {
            options.operands.extend(rest.drain(..));
            break;
        }
        if bytes == b"--help" {
            return Ok(Request::Help);
        }
        let Some(mut cluster) = bytes.strip_prefix(b"-").filter(|cluster| !cluster.is_empty()) else {
            options.operands.push(argument);
            continue;
        };
        while let Some((&flag, after)) = cluster.split_first() {
            if VALUED.contains(&flag) {
                let value = if after.is_empty() {
                    let missing = || format!("-{} needs a value", char::from(flag));
                    rest.pop_front().ok_or_else(missing)?.into_encoded_bytes()
                } else {
                    after.to_vec()
                };
                options.take_value(flag, value, &mut topics)?;
                break;
            }
            match flag {
                b'V' => return Ok(Request::Version),
                b'h' => return Ok(Request::Help),
                _ if PLAIN.contains(&flag) => options.take_flag(flag)?,
                _ => return Err(format!("there is no flag -{}", String::from_utf8_lossy(cluster))),
            }
            cluster = after;
        }
    }
    options.topics(topics)?;
    Ok(Request::Run(Box::new(options)))
}

impl Options {
    fn take_flag(&mut self, flag: u8) -> Result<(), String> {
        match flag {
            b'P' => self.set_mode(Mode::Produce)?,
            b'C' => self.set_mode(Mode::Consume)?,
            b'L' => self.set_mode(Mode::List)?,
            b'Q' => self.set_mode(Mode::Query)?,
            b'e' => self.exit_at_end = true,
            b'E' => self.keep_going = true,
            b'q' => self.quiet = true,
            b'v' => self.quiet = false,
            b'T' => self.tee = true,
            b'u' => self.unbuffered = true,
            b'Z' => self.null = true,
            b'l' => self.lines = true,
            b'J' => self.json = true,
            // -O says nothing in kcat either.
            _ => {}
        }
        Ok(())
    }

    fn take_value(&mut self, flag: u8, value: Vec<u8>, topics: &mut Vec<String>) -> Result<(), String> {
        match flag {
            b'G' => {
                self.set_mode(Mode::Group)?;
                self.group = Some(text(flag, value)?);
            }
            b't' => topics.push(text(flag, value)?),
            b'b' => self.brokers = Some(text(flag, value)?),
            b'p' => {
                let partition = number(flag, &value)?;
                self.partition = match i32::try_from(partition) {
                    Ok(-1) => None,
                    Ok(partition @ 0..) => Some(partition),
                    _ => return Err(format!("-p is {partition}, which is no partition")),
                };
            }
            b'z' => self.properties.push(("compression.codec".to_owned(), text(flag, value)?)),
            b'X' => {
                let property = text(flag, value)?;
                match property.split_once('=') {
                    None => return Err(format!("-X {property} is not of the form property=value")),
                    Some((name, value)) => self.properties.push((name.to_owned(), value.to_owned())),
                }
            }
            b'F' => {
                self.search_config = false;
                if value != b"-" && value != b"none" {
                    self.config_files.push(os_string(value));
                }
            }
            b'o' => self.take_offset(&value)?,
            b'D' => self.delimiter = escape::delimiter(&value)?,
            b'K' => self.key_delimiter = Some(escape::delimiter(&value)?),
            b'k' => self.fixed_key = Some(value),
            b'H' => self.headers.push(header(&value)?),
            b'c' => self.count = u64::try_from(number(flag, &value)?).ok().filter(|&count| count > 0),
            b'm' => {
                self.patience = match number(flag, &value)? {
                    -1 => PATIENCE_MAX,
                    seconds @ 1.. => Duration::from_secs(seconds.unsigned_abs()).min(PATIENCE_MAX),
                    seconds => return Err(format!("-m is {seconds}, which is no time to wait")),
                }
            }
            b'f' => self.format = Some(value),
            b's' | b'r' => {
                return Err(format!("-{} (deserialisers) is not supported", char::from(flag)));
            }
            // -d: RUST_LOG is what says how much is told.
            _ => {}
        }
        Ok(())
    }

    fn take_offset(&mut self, value: &[u8]) -> Result<(), String> {
        match value {
            b"beginning" => self.start = Some(Start::Beginning),
            b"end" => self.start = Some(Start::End),
            b"stored" => self.start = Some(Start::Stored),
            [b's', b'@', at @ ..] => self.start = Some(Start::Timestamp(number(b'o', at)?)),
            [b'e', b'@', at @ ..] => self.stop = Some(number(b'o', at)?),
            offset => {
                self.start = Some(match number(b'o', offset)? {
                    offset @ 0.. => Start::At(offset),
                    before => Start::Tail(before.saturating_neg()),
                });
            }
        }
        Ok(())
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), String> {
        if self.mode.is_some_and(|other| other != mode) {
            return Err("-P, -C, -L, -Q and -G exclude each other".to_owned());
        }
        self.mode = Some(mode);
        Ok(())
    }

    /// A topic is a question in one mode and a name in the others.
    fn topics(&mut self, topics: Vec<String>) -> Result<(), String> {
        if self.mode == Some(Mode::Query) {
            self.queries = topics.iter().map(|topic| query(topic)).collect::<Result<_, _>>()?;
        } else {
            self.topic = topics.into_iter().next_back();
        }
        Ok(())
    }

    /// The brokers and topics that each mode needs, and files only where some are wanted.
    pub(super) fn check(&self, mode: Mode) -> Result<(), String> {
        match mode {
            Mode::Produce | Mode::Consume if self.topic.is_none() => return Err("-t TOPIC is missing".into()),
            Mode::Query if self.queries.is_empty() => {
                return Err("-t TOPIC:PARTITION:TIMESTAMP is missing".into());
            }
            Mode::Group if self.operands.is_empty() => return Err("-G GROUP needs topics behind it".into()),
            Mode::Group if self.stop.is_some() || matches!(self.start, Some(Start::Timestamp(_))) => {
                return Err("-G cannot begin or end at a timestamp".into());
            }
            Mode::Produce if self.lines && self.operands.len() > 1 => {
                return Err("-l takes one file".into());
            }
            Mode::Produce if self.delimiter.is_empty() => {
                return Err("-D must not be empty when producing".into());
            }
            Mode::Consume | Mode::List | Mode::Query => {
                if let Some(operand) = self.operands.first() {
                    let operand = operand.to_string_lossy();
                    return Err(format!("{operand:?} is no flag; only -P and -G take files or topics"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn text(flag: u8, value: Vec<u8>) -> Result<String, String> {
    String::from_utf8(value).map_err(|_| format!("the value of -{} is not UTF-8", char::from(flag)))
}

fn number(flag: u8, value: &[u8]) -> Result<i64, String> {
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    let problem =
        || format!("-{} is {:?}, which is no number", char::from(flag), String::from_utf8_lossy(value));
    parsed.ok_or_else(problem)
}

fn header(value: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    let mut parts = value.splitn(2, |&byte| byte == b'=');
    let name = parts.next().unwrap_or_default();
    if name.is_empty() {
        return Err("-H needs name=value or name".to_owned());
    }
    Ok((name.to_vec(), parts.next().map(<[u8]>::to_vec)))
}

fn query(text: &str) -> Result<Query, String> {
    let parts: Vec<_> = text.splitn(3, ':').collect();
    let parsed = match parts[..] {
        [topic, partition, timestamp] => partition
            .parse()
            .ok()
            .zip(timestamp.parse().ok())
            .map(|(partition, timestamp)| Query { topic: topic.to_owned(), partition, timestamp }),
        _ => None,
    };
    parsed.ok_or_else(|| format!("-t is {text:?}; -Q needs TOPIC:PARTITION:TIMESTAMP"))
}

#[cfg(unix)]
fn os_string(bytes: Vec<u8>) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes)
}

#[cfg(not(unix))]
fn os_string(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// A topic to subscribe to.
pub(super) fn topic_name(operand: &OsStr) -> Result<String, String> {
    operand.to_str().map(str::to_owned).ok_or_else(|| format!("{operand:?} is no name of a topic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Request::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn problem(line: &str) -> String {
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Request::Run(options)) => {
                let mode = options.mode.expect("a mode");
                options.check(mode).expect_err(line)
            }
            other => other.expect_err(line),
        }
    }

    #[test]
    fn flags_cluster_and_values_attach() {
        let options = options("-Cqeb host:1 -tnames -p0 -o-5 -c 3 -f%s -X client.id=a -zgzip -m2 -K: -DXX");
        assert_eq!(options.mode, Some(Mode::Consume));
        assert!(options.quiet && options.exit_at_end && !options.json);
        assert_eq!(options.brokers.as_deref(), Some("host:1"));
        assert_eq!(options.topic.as_deref(), Some("names"));
        assert_eq!((options.partition, options.count), (Some(0), Some(3)));
        assert_eq!(options.start, Some(Start::Tail(5)));
        assert_eq!(options.format.as_deref(), Some(&b"%s"[..]));
        assert_eq!(options.patience, Duration::from_secs(2));
        assert_eq!((options.key_delimiter.as_deref(), &options.delimiter[..]), (Some(&b":"[..]), &b"XX"[..]));
        let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(options.properties, [property("client.id", "a"), property("compression.codec", "gzip")]);
    }

    #[test]
    fn operands_stand_anywhere() {
        let options = options("-G group one -e two -b x -- -three");
        assert_eq!(options.group.as_deref(), Some("group"));
        assert_eq!(options.operands, ["one", "two", "-three"]);
    }

    #[test]
    fn queries_headers_and_timestamps() {
        let query = options("-t a:0:12 -Q -t b:3:-1");
        assert_eq!(query.queries[1], Query { topic: "b".into(), partition: 3, timestamp: -1 });
        let options = options("-P -t a -H a=b=c -H d -H e= -o s@5 -o e@9");
        assert_eq!(
            options.headers,
            [
                (b"a".to_vec(), Some(b"b=c".to_vec())),
                (b"d".to_vec(), None),
                (b"e".to_vec(), Some(Vec::new()))
            ]
        );
        assert_eq!((options.start, options.stop), (Some(Start::Timestamp(5)), Some(9)));
    }

    #[test]
    fn typos_are_named() {
        for (line, expected) in [
            ("-C", "-t TOPIC"),
            ("-Q", "TIMESTAMP"),
            ("-Q -t a", "TIMESTAMP"),
            ("-G group", "topics"),
            ("-G group a -o s@1", "timestamp"),
            ("-P -C", "exclude"),
            ("-w", "-w"),
            ("-b", "needs a value"),
            ("-C -t a -o earliest", "earliest"),
            ("-C -t a -p x", "-p"),
            ("-C -t a -p -2", "-p"),
            ("-L file", "file"),
            ("-P -t a -l x y", "one file"),
            ("-P -t a -D \\x00", "empty"),
            ("-C -t a -X foo", "property=value"),
            ("-P -t a -H =b", "-H"),
            ("-C -t a -m 0", "-m"),
            ("-C -t a -s i", "deserialisers"),
        ] {
            let problem = problem(line);
            assert!(problem.contains(expected), "{line}: {problem}");
        }
    }
}
