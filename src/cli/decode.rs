//! `carafe decode`: what is in frames and log segments.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use clap::{Args, ValueEnum};

use crate::wire::compression::Decompressor;
use crate::wire::frame::{FRAME_BYTES_MAX, FrameReader};
use crate::wire::readable::{Batch, Detail, Frame};
use crate::wire::records::{BatchIter, HEADER_LEN, LENGTH_END};
use crate::wire::{ApiKey, DecodeError};
use crate::{Error, ErrorKind, Result};

/// Most bytes of input in hexadecimal digits or base64; raw bytes and log segments are read piece by piece.
const TEXT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Prints frames of Kafka's protocol, or a log segment of Apache Kafka, as text or JSON
///
/// Frames have their length in front, as on the wire; any number may follow each other. Secrets are hidden. A frame is at
/// most 100 MiB, and so is a batch, compressed or not.
#[derive(Debug, Args)]
pub(super) struct Decode {
    /// File to read; standard input without one
    file: Option<PathBuf>,
    /// What the input is; without it, files named *.log are log segments, and the rest is recognised by its first bytes
    #[arg(long, value_name = "FORM")]
    input: Option<Input>,
    /// The frames are responses of this API, by name or number; without it they are requests
    #[arg(long, value_name = "API", requires = "version")]
    api: Option<Api>,
    /// Version of the responses
    #[arg(long, value_name = "N", requires = "api")]
    version: Option<i16>,
    /// The input is one frame without its length in front
    #[arg(long)]
    bare: bool,
    /// Print one JSON object a line: each frame, or each batch of a segment
    #[arg(long)]
    json: bool,
    /// Print what Kafka's own converters print: of records the size alone, other bytes as they are
    #[arg(long)]
    shallow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Input {
    /// Frames in hexadecimal digits; white space does not matter
    Hex,
    /// Frames in base64; white space does not matter
    Base64,
    /// Frames as they are
    Raw,
    /// A log segment
    Log,
}

#[derive(Clone, Copy, Debug)]
struct Api(ApiKey);

impl FromStr for Api {
    type Err = String;

    /// Takes the number and the name in either of Kafka's spellings: `JoinGroup`, `JOIN_GROUP`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let name = text.replace('_', "");
        let number = text.parse().ok().map(ApiKey);
        ApiKey::all()
            .map(|(key, _)| key)
            .find(|key| {
                Some(*key) == number || key.name().is_some_and(|known| known.eq_ignore_ascii_case(&name))
            })
            .map(Self)
            .ok_or_else(|| "no API of brokers has this name or number; names are like JoinGroup".to_owned())
    }
}

/// Why nothing more is printed.
enum Failure {
    /// Whoever reads the output went away.
    Unheard,
    /// Of the kind [`ErrorKind::Config`] if the command line is wrong, and nothing was done.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// An error of the output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unheard,
            _ => Self::Failed(
                Error::new(ErrorKind::Io, "standard output cannot be written").with_source(error),
            ),
        }
    }
}

fn wrong(what: impl Into<String>) -> Failure {
    Failure::Failed(Error::new(ErrorKind::Config, what.into()))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, what.into())
}

fn unreadable(error: io::Error) -> Error {
    Error::new(ErrorKind::Protocol, "the input cannot be read").with_source(error)
}

impl Decode {
    pub(super) const LOG: &'static str = "warn";

    /// Reads and writes without waiting: nothing else happens in the program.
    pub(super) async fn run(self) -> Result<ExitCode> {
        match self.start() {
            Ok(()) | Err(Failure::Unheard) => Ok(ExitCode::SUCCESS),
            Err(Failure::Failed(error)) if error.kind() == ErrorKind::Config => Ok(super::refuse(&error)),
            Err(Failure::Failed(error)) => Err(error),
        }
    }

    fn start(&self) -> Result<(), Failure> {
        let input: Box<dyn Read> = match &self.file {
            None => Box::new(io::stdin().lock()),
            Some(file) => Box::new(
                File::open(file)
                    .map_err(|error| wrong(format!("{} cannot be read: {error}", file.display())))?,
            ),
        };
        let mut out = BufWriter::new(io::stdout().lock());
        let result = self.decode(input, &mut out);
        // What was printed before an error is worth reading.
        out.flush()?;
        result
    }

    /// Prints what is in `input`.
    fn decode(&self, input: impl Read, out: &mut impl Write) -> Result<(), Failure> {
        let extension = self.file.as_ref().and_then(|file| file.extension()).and_then(|end| end.to_str());
        if let (None, Some("index" | "timeindex" | "txnindex" | "snapshot")) = (self.input, extension) {
            return Err(wrong(
                "indexes and snapshots are not read, only the log segments (*.log) beside them",
            ));
        }
        let request = match (self.api, self.version) {
            (Some(Api(key)), Some(version)) => match key.versions() {
                Some(known) if known.contains(version) => Some((key, version)),
                Some(known) => {
                    return Err(wrong(format!("{key} has the versions {known}, not {version}")));
                }
                None => return Err(wrong(format!("{key} is not known"))),
            },
            _ => None,
        };
        let mut input = BufReader::new(input);
        let form = match (self.input, extension) {
            (Some(form), _) => form,
            (None, Some("log")) => Input::Log,
            (None, _) => recognise(input.fill_buf().map_err(unreadable)?),
        };
        match form {
            Input::Log => self.segment(&mut input, out),
            Input::Raw => self.frames(&mut input, request, out),
            Input::Hex => self.frames(&mut &unhex(text(&mut input)?)?[..], request, out),
            Input::Base64 => self.frames(&mut &unbase64(text(&mut input)?)?[..], request, out),
        }
    }

    fn frames(
        &self,
        input: &mut impl Read,
        request: Option<(ApiKey, i16)>,
        out: &mut impl Write,
    ) -> Result<(), Failure> {
        let read = |frame: Bytes| match request {
            Some((key, version)) => Frame::response(frame, key, version),
            None => Frame::request(frame),
        };
        // A frame does not say in which direction it went.
        let other_way = match request {
            Some(_) => "with --api and --version it is read as a response, without them as a request",
            None => "if it is a response, --api and --version say to what",
        };
        if self.bare {
            let frame = read_up_to(input, FRAME_BYTES_MAX + 1)?;
            if frame.len() > FRAME_BYTES_MAX {
                return Err(invalid(format!("the frame is above {FRAME_BYTES_MAX} bytes")).into());
            }
            return self.frame(read(frame.into()), 0, 0, other_way, out);
        }
        let mut reader = match request {
            Some(_) => FrameReader::responses(FRAME_BYTES_MAX),
            None => FrameReader::requests(FRAME_BYTES_MAX),
        };
        let mut chunk = vec![0; 64 * 1024];
        let (mut count, mut position) = (0, 0);
        loop {
            let place = || format!("frame {count} at byte {position} of the input");
            let next = reader.next_frame().map_err(|error| {
                invalid(format!("{} is none: {error}", place()))
                    .with_advice(format!("--bare reads a frame without its length; {other_way}"))
            })?;
            if let Some(frame) = next {
                let len = 4 + frame.len();
                self.frame(read(frame), count, position, other_way, out)?;
                count += 1;
                position += len;
                continue;
            }
            match input.read(&mut chunk) {
                Ok(0) if reader.is_mid_frame() || count == 0 => {
                    return Err(invalid(format!("the input ends in {}", place())).into());
                }
                Ok(0) => return Ok(()),
                Ok(read) => reader.buffer().extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error).into()),
            }
        }
    }

    fn frame(
        &self,
        frame: std::result::Result<Frame, DecodeError>,
        count: usize,
        position: usize,
        other_way: &str,
        out: &mut impl Write,
    ) -> Result<(), Failure> {
        let frame = frame.map_err(|error| {
            let message = format!("frame {count} at byte {position} of the input is not valid: {error}");
            invalid(message).with_advice(other_way).with_source(error)
        })?;
        let detail = if self.shallow { Detail::Kafka } else { Detail::Full };
        match self.json {
            true => writeln!(out, "{}", frame.json(detail))?,
            false => writeln!(out, "{}\n", frame.text(detail))?,
        }
        Ok(())
    }

    /// Prints batch after batch. Damaged ones do not end it as long as their lengths lead on to others; the first is the
    /// error in the end.
    fn segment(&self, input: &mut impl Read, out: &mut impl Write) -> Result<(), Failure> {
        let mut with = Decompressor::new();
        let mut position = 0;
        let mut damage = None;
        loop {
            let mut bytes = read_up_to(input, HEADER_LEN)?;
            if bytes.is_empty() {
                return damage.map_or(Ok(()), |error| Err(Failure::Failed(error)));
            }
            if bytes.len() == HEADER_LEN && bytes.iter().all(|&byte| byte == 0) {
                let what = "zeros where a batch should be: the file was made larger than what was written";
                return Err(invalid(format!("byte {position} of the segment: {what}")).into());
            }
            if let Some(&[a, b, c, d]) = bytes.get(8..LENGTH_END).and_then(|len| len.first_chunk()) {
                let len = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(0) + LENGTH_END;
                if len > FRAME_BYTES_MAX {
                    let what = format!("a batch of {len} bytes is above {FRAME_BYTES_MAX}");
                    return Err(invalid(format!("byte {position} of the segment: {what}")).into());
                }
                bytes.extend(read_up_to(input, len.saturating_sub(bytes.len()))?);
            }
            let len = bytes.len();
            let batch = match BatchIter::new(bytes.into()).check_crc(false).next() {
                Some(Ok(mut raw)) => {
                    raw.position = position;
                    Batch::new(raw, &mut with)
                }
                Some(Err(mut error)) => {
                    error.position = position;
                    return Err(invalid("the segment goes on with what is no batch")
                        .with_source(error)
                        .into());
                }
                None => {
                    let what = format!("the segment ends after {len} bytes of the batch at byte {position}");
                    return Err(invalid(what).into());
                }
            };
            match self.json {
                true => writeln!(out, "{}", batch.json())?,
                false => writeln!(out, "{}\n", batch.text())?,
            }
            if let (None, Some(error)) = (&damage, batch.error()) {
                damage = Some(invalid("the segment holds a damaged batch").with_source(error.clone()));
            }
            position += len;
        }
    }
}

/// At most `max` bytes; memory is taken as they come.
fn read_up_to(input: &mut impl Read, max: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(max as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// What bytes with such a beginning are. Frames as they are begin with a zero: hardly one has 16 MiB.
fn recognise(start: &[u8]) -> Input {
    let all = |of: fn(&u8) -> bool| start.iter().all(|byte| byte.is_ascii_whitespace() || of(byte));
    if all(|byte| byte.is_ascii_hexdigit()) {
        Input::Hex
    } else if all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)) {
        Input::Base64
    } else {
        Input::Raw
    }
}

/// The input without white space.
fn text(input: &mut impl Read) -> Result<Vec<u8>> {
    let mut text = read_up_to(input, TEXT_BYTES_MAX + 1)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(
            invalid(format!("more than {TEXT_BYTES_MAX} bytes of text")).with_advice("give it as raw bytes")
        );
    }
    text.retain(|byte| !byte.is_ascii_whitespace());
    Ok(text)
}

fn unhex(text: Vec<u8>) -> Result<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|&[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8)).collect();
    match bytes {
        Some(bytes) if rest.is_empty() => Ok(bytes),
        _ => Err(invalid("the input is not pairs of hexadecimal digits")),
    }
}

fn unbase64(text: Vec<u8>) -> Result<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&STANDARD, config);
    engine.decode(text).map_err(|error| invalid("the input is not base64").with_source(error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::wire::compression::Compression;
    use crate::wire::frame::{encode_request, encode_response};
    use crate::wire::messages::{ApiVersionsRequest, HeartbeatResponse, MetadataRequest};
    use crate::wire::records::BatchWriter;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        decode: Decode,
    }

    /// What the command prints for `input`, and what it says is wrong.
    fn run(line: &str, input: &[u8]) -> (String, Option<String>) {
        let words = std::iter::once("decode").chain(line.split_whitespace());
        let line = match Line::try_parse_from(words) {
            Ok(line) => line,
            Err(error) => return (String::new(), Some(format!("usage: {error}"))),
        };
        let mut out = Vec::new();
        let problem = match line.decode.decode(input, &mut out) {
            Ok(()) => None,
            Err(Failure::Failed(error)) if error.kind() == ErrorKind::Config => {
                Some(format!("usage: {error}"))
            }
            Err(Failure::Failed(error)) => Some(crate::error::Chain(&error).to_string()),
            Err(Failure::Unheard) => Some("unheard".to_owned()),
        };
        (String::from_utf8(out).unwrap(), problem)
    }

    fn prints(line: &str, input: &[u8]) -> String {
        let (out, problem) = run(line, input);
        assert_eq!(problem, None, "{line}");
        out
    }

    fn fails(line: &str, input: &[u8]) -> String {
        run(line, input).1.unwrap_or_else(|| panic!("{line} succeeds"))
    }

    /// Two requests, one after the other.
    fn requests() -> Vec<u8> {
        let metadata = encode_request(&MetadataRequest::default(), 1, 1, Some("me")).unwrap();
        let versions = encode_request(&ApiVersionsRequest::default(), 3, 2, None).unwrap();
        [metadata, versions].concat()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02X}\n")).collect()
    }

    #[test]
    fn frames_come_in_any_form() {
        let requests = requests();
        let printed = prints("--json", &requests);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"requestHeader":{"requestApiKey":3,"requestApiKeyName":"METADATA","requestApiVersion":1,"correlationId":1,"clientId":"me"},"request":{"topics":[]}}"#
        );
        assert!(lines.len() == 2 && lines[1].contains("clientSoftwareName"), "{printed}");
        assert_eq!(prints("--json", hex(&requests).as_bytes()), printed);
        let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&requests);
        assert_eq!(prints("--json", format!("{base64}\n").as_bytes()), printed);
        assert!(prints("", &requests).contains("  requestApiKeyName: \"METADATA\"\n"));

        let bare = encode_request(&MetadataRequest::default(), 1, 1, Some("me")).unwrap();
        assert_eq!(prints("--json --bare", &bare[4..]).trim_end(), lines[0]);
        assert!(!prints("--json --shallow", &requests).contains("requestApiKeyName"));
    }

    #[test]
    fn responses_need_their_api_and_version() {
        let response = HeartbeatResponse { error_code: 27, ..Default::default() };
        let frame = encode_response(&response, ApiKey::HEARTBEAT, 4, 9).unwrap();
        for api in ["heartbeat", "12", "HEARTBEAT"] {
            let line = format!("--api {api} --version 4");
            assert_eq!(
                prints(&line, &frame),
                "responseHeader:\n  correlationId: 9\nresponse:\n  throttleTimeMs: 0\n  errorCode: 27 REBALANCE_IN_PROGRESS\n\n"
            );
        }
        for frame in [&frame[..], &encode_response(&response, ApiKey::HEARTBEAT, 0, 1).unwrap()] {
            assert!(fails("", frame).contains("if it is a response, --api and --version say to what"));
        }
        let request = &requests()[..20];
        let problem = fails("--api metadata --version 1", request);
        assert!(problem.contains("without them as a request"), "{problem}");
        assert!(fails("--api heartbeat", &frame).starts_with("usage: "));
        assert!(fails("--version 4", &frame).starts_with("usage: "));
        assert!(fails("--api heartbeet --version 4", &frame).contains("names are like JoinGroup"));
        assert_eq!(
            fails("--api heartbeat --version 5", &frame),
            "usage: Heartbeat has the versions 0-4, not 5"
        );
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        let mut input = requests();
        input[20 + 3] = 2;
        assert_eq!(
            fails("", &input),
            "frame 1 at byte 20 of the input is none: frame of 2 bytes, at least 8 are needed; --bare reads a frame without its length; if it is a response, --api and --version say to what"
        );
        assert!(run("--json", &input).0.starts_with("{\"requestHeader\""), "the first frame is printed");
        let input = requests();
        assert_eq!(fails("", &input[..input.len() - 1]), "the input ends in frame 1 at byte 20 of the input");
        assert_eq!(fails("", b""), "the input ends in frame 0 at byte 0 of the input");
        let mut input = requests();
        input[7] = 0; // topics may be null from version 1 on
        input[16..20].fill(0xff);
        assert_eq!(
            fails("", &input),
            "frame 0 at byte 0 of the input is not valid: MetadataRequest version 0, topics, byte 16: null is not allowed; if it is a response, --api and --version say to what"
        );
        assert_eq!(fails("--input hex", b"0g"), "the input is not pairs of hexadecimal digits");
        assert!(fails("--input base64", b"a*").starts_with("the input is not base64: "));
        assert!(fails("00000000000000000000.timeindex", b"").contains("only the log segments"));
        assert!(fails("--input zip", b"").starts_with("usage: "));
    }

    fn batch(base_offset: i64, codec: Compression) -> Vec<u8> {
        let mut writer = BatchWriter::with_capacity(64);
        let value = [b'v'; 100];
        let size = writer.measure(5, Some(b"k"), Some(&value), std::iter::empty()).unwrap();
        writer.append(size, 5, Some(b"k"), Some(&value), std::iter::empty());
        let (body, meta) = writer.finish();
        let mut packed = Vec::new();
        crate::wire::compression::Compressor::new().compress(codec, None, &body, &mut packed).unwrap();
        let mut header = meta.header(codec);
        header.base_offset = base_offset;
        [&header.encode(&packed)[..], &packed].concat()
    }

    #[test]
    fn segments_are_printed_batch_by_batch() {
        let first = batch(7, Compression::Lz4);
        let input = [&first[..], &batch(8, Compression::None)].concat();
        let printed = prints("00000000000000000007.log --json", &input);
        let second = format!(
            "{{\"baseOffset\":8,\"lastOffset\":8,\"count\":1,\"baseSequence\":-1,\"lastSequence\":-1,\"producerId\":-1,\"producerEpoch\":-1,\"partitionLeaderEpoch\":-1,\"isTransactional\":false,\"isControl\":false,\"deleteHorizonMs\":null,\"position\":{},",
            first.len()
        );
        assert!(printed.lines().nth(1).unwrap().starts_with(&second), "{printed}");
        assert_eq!(prints("--input log --json", &input), printed);
        assert!(prints("--input log", &input).contains("compressCodec: \"lz4\"\n"));
    }

    #[test]
    fn damage_in_a_segment_is_found_and_stepped_over() {
        let mut input = [batch(7, Compression::None), batch(8, Compression::None)].concat();
        let len = input.len() / 2;
        input[100] ^= 1;
        let (printed, problem) = run("--input log --json", &input);
        assert_eq!(printed.matches("\"isValid\":false").count(), 1);
        assert_eq!(printed.lines().count(), 2);
        let problem = problem.unwrap();
        assert!(
            problem.starts_with(
                "the segment holds a damaged batch: record batch with base offset 7 at byte 0: checksum"
            ),
            "{problem}"
        );

        // Whatever changes, it ends, and either way something is said.
        let input = [batch(7, Compression::Gzip), batch(8, Compression::None)].concat();
        for at in 0..input.len() {
            for bit in 0..8 {
                let mut input = input.clone();
                input[at] ^= 1 << bit;
                let (printed, problem) = run("--input log --json", &input);
                assert!(
                    problem.is_some() || printed.lines().count() == 2,
                    "bit {bit} of byte {at}: {printed}"
                );
            }
        }

        let input = batch(7, Compression::None);
        for cut in 1..len {
            let problem = fails("--input log", &input[..cut]);
            assert_eq!(problem, format!("the segment ends after {cut} bytes of the batch at byte 0"));
        }
        let after = |tail: &[u8]| fails("--input log", &[&input, tail].concat());
        assert!(after(&[0; 61]).starts_with(&format!("byte {len} of the segment: zeros")));
        let mut huge = batch(8, Compression::None);
        huge[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(after(&huge).ends_with("a batch of 2147483659 bytes is above 104857600"));
        huge[8..12].fill(0xff);
        assert!(after(&huge).ends_with("length -1 is smaller than a batch header"));
        huge[16] = 1;
        assert!(after(&huge).contains("message format 1 is not supported"));
    }
}
