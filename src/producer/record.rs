//! Records to send: borrowed or owned, whatever the caller has.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::Topic;
use crate::types::{Partition, Timestamp, TopicName};
#[cfg(feature = "app")]
use crate::{Error, ErrorKind};

/// Bytes of a key, a value or a header: borrowed, owned or shared. The producer copies them once, into the batch.
#[derive(Clone)]
pub enum RecordBytes<'a> {
    /// Borrowed from the caller.
    Borrowed(&'a [u8]),
    /// Owned.
    Owned(Vec<u8>),
    /// Shared.
    Shared(Bytes),
}

impl RecordBytes<'_> {
    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The same bytes without a borrow; copies borrowed ones.
    pub fn into_owned(self) -> RecordBytes<'static> {
        match self {
            Self::Borrowed(bytes) => RecordBytes::Owned(bytes.to_vec()),
            Self::Owned(bytes) => RecordBytes::Owned(bytes),
            Self::Shared(bytes) => RecordBytes::Shared(bytes),
        }
    }
}

impl AsRef<[u8]> for RecordBytes<'_> {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for RecordBytes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for RecordBytes<'_> {}

impl fmt::Debug for RecordBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A payload of megabytes is no line of a log.
        const SHOWN: usize = 64;
        let bytes = self.as_slice();
        match bytes.get(..SHOWN) {
            Some(start) if bytes.len() > SHOWN => {
                write!(f, "b\"{}…\" ({} bytes)", start.escape_ascii(), bytes.len())
            }
            _ => write!(f, "b\"{}\"", bytes.escape_ascii()),
        }
    }
}

impl<'a> From<&'a [u8]> for RecordBytes<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for RecordBytes<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a str> for RecordBytes<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl<'a> From<&'a String> for RecordBytes<'a> {
    #[inline]
    fn from(text: &'a String) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl<'a> From<&'a Vec<u8>> for RecordBytes<'a> {
    #[inline]
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a Bytes> for RecordBytes<'a> {
    #[inline]
    fn from(bytes: &'a Bytes) -> Self {
        Self::Borrowed(bytes)
    }
}

impl From<Vec<u8>> for RecordBytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl From<String> for RecordBytes<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text.into_bytes())
    }
}

impl From<Bytes> for RecordBytes<'_> {
    #[inline]
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl From<ByteString> for RecordBytes<'_> {
    fn from(text: ByteString) -> Self {
        Self::Shared(text.into_bytes())
    }
}

/// What [`Record::key`] and [`Record::value`] take: bytes of any kind, or an option of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nullable<'a>(Option<RecordBytes<'a>>);

impl<'a, T> From<T> for Nullable<'a>
where
    RecordBytes<'a>: From<T>,
{
    #[inline]
    fn from(bytes: T) -> Self {
        Self(Some(bytes.into()))
    }
}

impl<'a, T> From<Option<T>> for Nullable<'a>
where
    RecordBytes<'a>: From<T>,
{
    #[inline]
    fn from(bytes: Option<T>) -> Self {
        Self(bytes.map(RecordBytes::from))
    }
}

/// Where a record goes: a name, or a [`Topic`] that was looked up once.
#[derive(Clone, Debug)]
pub(crate) enum Destination<'a> {
    Name(Cow<'a, str>),
    Shared(TopicName),
    Topic(Topic),
    TopicRef(&'a Topic),
}

impl Destination<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Shared(name) => name.as_str(),
            Self::Topic(topic) => topic.name().as_str(),
            Self::TopicRef(topic) => topic.name().as_str(),
        }
    }

    fn into_owned(self) -> Destination<'static> {
        match self {
            Self::Name(name) => Destination::Name(Cow::Owned(name.into_owned())),
            Self::Shared(name) => Destination::Shared(name),
            Self::Topic(topic) => Destination::Topic(topic),
            Self::TopicRef(topic) => Destination::Topic(topic.clone()),
        }
    }
}

/// What [`Record::to`] takes.
#[derive(Clone, Debug)]
pub struct Target<'a>(Destination<'a>);

impl<'a> From<&'a str> for Target<'a> {
    #[inline]
    fn from(name: &'a str) -> Self {
        Self(Destination::Name(Cow::Borrowed(name)))
    }
}

impl<'a> From<&'a String> for Target<'a> {
    fn from(name: &'a String) -> Self {
        Self(Destination::Name(Cow::Borrowed(name)))
    }
}

impl From<String> for Target<'_> {
    fn from(name: String) -> Self {
        Self(Destination::Name(Cow::Owned(name)))
    }
}

impl From<TopicName> for Target<'_> {
    fn from(name: TopicName) -> Self {
        Self(Destination::Shared(name))
    }
}

impl<'a> From<&'a TopicName> for Target<'a> {
    fn from(name: &'a TopicName) -> Self {
        Self(Destination::Name(Cow::Borrowed(name.as_str())))
    }
}

impl<'a> From<&'a Topic> for Target<'a> {
    #[inline]
    fn from(topic: &'a Topic) -> Self {
        Self(Destination::TopicRef(topic))
    }
}

impl From<Topic> for Target<'_> {
    fn from(topic: Topic) -> Self {
        Self(Destination::Topic(topic))
    }
}

/// A header of a record. Keys are bytes and may repeat; a null value and an empty one differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The key.
    pub key: RecordBytes<'a>,
    /// The value; `None` is null.
    pub value: Option<RecordBytes<'a>>,
}

/// A record to send. Borrows what it is given by reference; building one allocates nothing.
///
/// ```
/// # use carafe::producer::Record;
/// let record = Record::to("orders").key("customer-7").value(br#"{"total":12}"#).header("source", "shop");
/// ```
///
/// Without [`key`](Self::key) the key is null, without [`value`](Self::value) the value is (a tombstone, where the topic
/// is compacted). Null and empty differ.
#[derive(Clone)]
pub struct Record<'a> {
    pub(crate) destination: Destination<'a>,
    pub(crate) key: Option<RecordBytes<'a>>,
    pub(crate) value: Option<RecordBytes<'a>>,
    pub(crate) headers: Vec<Header<'a>>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) partition: Option<i32>,
}

impl<'a> Record<'a> {
    /// A record for `topic`: a name, or a [`Topic`] from [`Producer::topic`](super::Producer::topic), which saves the
    /// look-up by name.
    #[inline]
    pub fn to(topic: impl Into<Target<'a>>) -> Self {
        Self {
            destination: topic.into().0,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
            partition: None,
        }
    }

    /// Sets the key, which also chooses the partition unless [`partition`](Self::partition) does. `None` is no key; an empty
    /// key is a key.
    #[inline]
    #[must_use]
    pub fn key(mut self, key: impl Into<Nullable<'a>>) -> Self {
        self.key = key.into().0;
        self
    }

    /// Sets the value. `None` is a tombstone.
    #[inline]
    #[must_use]
    pub fn value(mut self, value: impl Into<Nullable<'a>>) -> Self {
        self.value = value.into().0;
        self
    }

    /// Sets the value to the JSON of `value`, which [`Json`](crate::app::Json) reads.
    ///
    /// ```
    /// # use carafe::producer::Record;
    /// let record = Record::to("orders").key("7").json(&["coffee", "cake"])?;
    /// assert_eq!(record.value_bytes(), Some(&br#"["coffee","cake"]"#[..]));
    /// # Ok::<(), carafe::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] if serde refuses it, such as a map whose keys are no text.
    #[cfg(feature = "app")]
    pub fn json(mut self, value: &(impl serde::Serialize + ?Sized)) -> crate::Result<Self> {
        let json = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::Payload, "the value cannot be written as JSON").with_source(error)
        })?;
        self.value = Some(RecordBytes::Owned(json));
        Ok(self)
    }

    /// Adds a header. A value of `None` is null.
    #[must_use]
    pub fn header(mut self, key: impl Into<RecordBytes<'a>>, value: impl Into<Nullable<'a>>) -> Self {
        self.headers.push(Header { key: key.into(), value: value.into().0 });
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch. Default: the time at which the record is enqueued, to about
    /// a millisecond where many come at a time.
    #[inline]
    #[must_use]
    pub fn timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.timestamp = Some(timestamp.into().0);
        self
    }

    /// Chooses the partition; the partitioner is not asked.
    #[inline]
    #[must_use]
    pub fn partition(mut self, partition: impl Into<Partition>) -> Self {
        self.partition = Some(partition.into().0);
        self
    }

    /// Name of the topic.
    pub fn topic_name(&self) -> &str {
        self.destination.name()
    }

    /// The key; `None` is null.
    #[inline]
    pub fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_ref().map(RecordBytes::as_slice)
    }

    /// The value; `None` is null.
    #[inline]
    pub fn value_bytes(&self) -> Option<&[u8]> {
        self.value.as_ref().map(RecordBytes::as_slice)
    }

    /// The headers in order.
    pub fn headers(&self) -> &[Header<'a>] {
        &self.headers
    }

    /// The timestamp that was set.
    pub fn timestamp_millis(&self) -> Option<Timestamp> {
        self.timestamp.map(Timestamp)
    }

    /// The partition that was set.
    pub fn chosen_partition(&self) -> Option<Partition> {
        self.partition.map(Partition)
    }

    /// The same record without borrows; copies what was borrowed.
    pub fn into_owned(self) -> Record<'static> {
        let own = |header: Header<'a>| Header {
            key: header.key.into_owned(),
            value: header.value.map(RecordBytes::into_owned),
        };
        Record {
            destination: self.destination.into_owned(),
            key: self.key.map(RecordBytes::into_owned),
            value: self.value.map(RecordBytes::into_owned),
            headers: self.headers.into_iter().map(own).collect(),
            timestamp: self.timestamp,
            partition: self.partition,
        }
    }

    pub(crate) fn header_slices(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> + Clone {
        self.headers
            .iter()
            .map(|header| (header.key.as_slice(), header.value.as_ref().map(RecordBytes::as_slice)))
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("topic", &self.topic_name())
            .field("key", &self.key)
            .field("value", &self.value)
            .field("headers", &self.headers)
            .field("timestamp", &self.timestamp)
            .field("partition", &self.partition)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_bytes_or_an_option_of_them() {
        let key: Option<&str> = None;
        let record = Record::to("t").key(key).value(Some("x")).header("a", None::<&str>).header("b", "c");
        assert_eq!((record.key_bytes(), record.value_bytes()), (None, Some(&b"x"[..])));
        assert_eq!(
            record.header_slices().map(|(_, value)| value).collect::<Vec<_>>(),
            [None, Some(&b"c"[..])]
        );
        let record = Record::to("t").key(Some(7u64.to_be_bytes().to_vec())).value("x").value(None::<Bytes>);
        assert_eq!((record.key_bytes(), record.value_bytes()), (Some(&7u64.to_be_bytes()[..]), None));
    }
}
