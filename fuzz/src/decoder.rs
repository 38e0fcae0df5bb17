//! What a decoder can do, in terms that no implementation owns. A target asks for one of these traits.

use bytes::Bytes;

/// Why bytes are refused, in the decoder's own words.
pub type Refusal = String;

/// Splits a stream into frames and reads their headers.
pub trait Frames {
    /// Takes a stream chunk by chunk. Returns the bodies of the whole frames, without their lengths, and why it stopped
    /// before the end, if it did. Frames of requests have 8 to `max` bytes, those of responses 4 to `max`.
    fn frames(&mut self, requests: bool, max: usize, chunks: &[&[u8]]) -> (Vec<Bytes>, Option<Refusal>);

    /// Key, version and correlation id of a request, and where its body starts.
    fn request_header(&mut self, frame: &Bytes) -> Result<(i16, i16, i32, usize), Refusal>;

    /// Correlation id of a response to `key` and `version`, and where its body starts.
    fn response_header(&mut self, frame: &Bytes, key: i16, version: i16) -> Result<(i32, usize), Refusal>;
}

/// Reads messages and writes them again.
pub trait Messages {
    /// Reads the body of a request, all of it, and writes it again. An API or version that the decoder does not know is
    /// refused.
    fn request(&mut self, key: i16, version: i16, body: &Bytes) -> Result<Vec<u8>, Refusal>;

    /// As [`request`](Self::request), for the body of a response.
    fn response(&mut self, key: i16, version: i16, body: &Bytes) -> Result<Vec<u8>, Refusal>;
}

/// A record, borrowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Milliseconds.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers in order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// What a batch held, in a few bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// First offset.
    pub base_offset: i64,
    /// Last offset, of a record that may have been compacted away.
    pub last_offset: i64,
    /// Offset of the last record seen.
    last_seen: Option<i64>,
    /// Records seen.
    pub count: usize,
    digest: u64,
}

impl Batch {
    /// A batch without records.
    ///
    /// # Panics
    ///
    /// The offsets cannot be those of a batch.
    pub fn new(base_offset: i64, last_offset: i64) -> Self {
        assert!(0 <= base_offset && base_offset <= last_offset && last_offset < i64::MAX);
        Self { base_offset, last_offset, last_seen: None, count: 0, digest: 0xcbf2_9ce4_8422_2325 }
    }

    /// Takes in the next record.
    ///
    /// # Panics
    ///
    /// Its offset cannot be.
    pub fn record<'a>(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) {
        assert!(self.last_seen < Some(offset), "offset {offset} after {:?}", self.last_seen);
        assert!(
            (self.base_offset..=self.last_offset).contains(&offset),
            "offset {offset} outside of its batch"
        );
        self.last_seen = Some(offset);
        self.count += 1;
        self.mix(&offset.to_le_bytes());
        self.mix(&timestamp.to_le_bytes());
        self.field(key);
        self.field(value);
        for (key, value) in headers {
            self.field(Some(key));
            self.field(value);
        }
        self.mix(b"end");
    }

    fn field(&mut self, field: Option<&[u8]>) {
        match field {
            None => self.mix(&[0xff; 9]),
            Some(bytes) => {
                self.mix(&(bytes.len() as u64).to_le_bytes());
                self.mix(bytes);
            }
        }
    }

    /// FNV-1a: the digests are compared, nothing else.
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Reads record batches.
pub trait Batches {
    /// Reads the batches of a blob in order, checksums checked, at most `cap` bytes of records per compressed batch.
    /// Returns those before the first that cannot be read, and why it cannot. A batch that is cut short ends the blob
    /// without being an error.
    fn batches(&mut self, blob: &Bytes, cap: usize) -> (Vec<Batch>, Option<Refusal>);

    /// Writes a batch of these records with the codec of this id; `None` if that is not possible.
    fn write(&mut self, codec: i8, records: &[Record]) -> Option<Bytes>;
}

/// Compresses and decompresses.
pub trait Codecs {
    /// Decompresses `input` with the codec of this id; fails if there would be more than `cap` bytes.
    fn decompress(&mut self, codec: i8, input: &[u8], cap: usize) -> Result<Vec<u8>, Refusal>;

    /// Compresses `input` with the codec of this id at a level, which may be one that the codec does not have.
    fn compress(&mut self, codec: i8, level: Option<i32>, input: &[u8]) -> Vec<u8>;
}

/// Reads as a consumer of committed records does.
pub trait Committed {
    /// Offsets of the records that are visible, given the aborted transactions (producer id, first offset) of the answer;
    /// and why the rest cannot be read.
    fn visible(&mut self, blob: &Bytes, aborted: &[(i64, i64)]) -> (Vec<i64>, Option<Refusal>);
}
