//! Machine: which versions a broker speaks, the first exchange on every connection (KIP-35, KIP-511).
//!
//! We ask in the newest version. A broker that does not know it answers error 35 in the form of version 0, with the
//! range it accepts where it is 2.4 or newer; we ask once more at the highest strictly lower version. Never a loop.

use bytes::Bytes;

use super::failure::Failure;
use crate::error::Phase;
use crate::wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use crate::wire::{ApiKey, Decode, Message, Reader, Str, VersionRange};
use crate::{ErrorCode, ErrorKind};

/// Version 5 carries the intended target (KIP-1242) and is not stable.
const VERSION_MAX: i16 = 4;

/// What a broker told about itself on one connection. During a roll, brokers and even connections differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ApiVersions {
    /// Sorted by key.
    ranges: Vec<(ApiKey, VersionRange)>,
}

impl ApiVersions {
    fn from_response(response: &ApiVersionsResponse) -> Self {
        let mut ranges: Vec<_> = (response.api_keys.iter())
            .map(|api| (ApiKey(api.api_key), VersionRange { min: api.min_version, max: api.max_version }))
            .collect();
        ranges.sort_by_key(|(key, _)| key.0);
        Self { ranges }
    }

    /// The range that the broker offers for `key`.
    pub(crate) fn range(&self, key: ApiKey) -> Option<VersionRange> {
        let index = self.ranges.binary_search_by_key(&key.0, |(key, _)| key.0).ok()?;
        Some(self.ranges[index].1)
    }

    /// The highest version that both sides speak.
    pub(crate) fn version(&self, key: ApiKey, ours: VersionRange) -> Option<i16> {
        let theirs = self.range(key)?;
        let version = ours.max.min(theirs.max);
        (version >= ours.min.max(theirs.min)).then_some(version)
    }
}

/// What to do after an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Ask again in the version that [`Negotiation::version`] gives now.
    Again,
    Done(ApiVersions),
}

/// The exchange.
#[derive(Debug)]
pub(super) struct Negotiation {
    version: i16,
    may_retry: bool,
}

impl Negotiation {
    /// Begins with the newest version.
    pub(super) fn new() -> Self {
        Self { version: VERSION_MAX.min(ApiVersionsRequest::VERSIONS.max), may_retry: true }
    }

    /// Begins with version 0, for brokers that hang up instead of answering error 35 (Azure Event Hubs).
    pub(super) fn oldest() -> Self {
        Self { version: 0, may_retry: false }
    }

    /// The version to ask in.
    pub(super) fn version(&self) -> i16 {
        self.version
    }

    /// The request to send.
    pub(super) fn request(&self) -> ApiVersionsRequest {
        let mut request = ApiVersionsRequest::default();
        if self.version >= 3 {
            request.client_software_name = Str::from_static("carafe");
            request.client_software_version = Str::from_static(env!("CARGO_PKG_VERSION"));
        }
        request
    }

    /// Takes the response body (`reader` stands behind the header).
    pub(super) fn handle_response(&mut self, mut reader: Reader) -> Result<Step, Failure> {
        let body = reader.rest();
        let code = body.first_chunk::<2>().map(|bytes| ErrorCode(i16::from_be_bytes(*bytes)));
        match code {
            Some(ErrorCode::UNSUPPORTED_VERSION) if self.version > 0 && self.may_retry => {
                self.version = offered(body).filter(|&max| (0..self.version).contains(&max)).unwrap_or(0);
                self.may_retry = false;
                Ok(Step::Again)
            }
            Some(ErrorCode::NONE) => {
                let response = ApiVersionsResponse::decode(&mut reader, self.version).map_err(|error| {
                    Failure::new(
                        ErrorKind::Protocol,
                        Phase::Negotiate,
                        format!("the answer is not valid: {error}"),
                    )
                })?;
                Ok(Step::Done(ApiVersions::from_response(&response)))
            }
            Some(code) => Err(Failure::new(
                code.kind(),
                Phase::Negotiate,
                format!("the broker refused to name its versions: {code}"),
            )),
            None => Err(Failure::new(ErrorKind::Protocol, Phase::Negotiate, "the answer is empty")),
        }
    }
}

/// The highest version of ApiVersions that an answer in the form of version 0 offers.
fn offered(body: Bytes) -> Option<i16> {
    let response = ApiVersionsResponse::decode(&mut Reader::new(body), 0).ok()?;
    response.api_keys.iter().find(|api| api.api_key == ApiKey::API_VERSIONS.0).map(|api| api.max_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v0(code: i16, keys: &[(i16, i16, i16)]) -> Reader {
        let mut bytes = code.to_be_bytes().to_vec();
        bytes.extend((keys.len() as i32).to_be_bytes());
        for (key, min, max) in keys {
            bytes.extend([key.to_be_bytes(), min.to_be_bytes(), max.to_be_bytes()].concat());
        }
        Reader::new(bytes.into())
    }

    #[test]
    fn an_unknown_version_is_retried_once_at_the_highest_lower_one() {
        for (keys, expected) in [
            (&[(18, 0, 3)][..], 3),
            (&[(18, 0, 2)], 2),
            // Not lower, negative or missing: version 0.
            (&[(18, 0, 4)], 0),
            (&[(18, 0, 9)], 0),
            (&[(18, 0, -1)], 0),
            (&[(3, 0, 1)], 0),
            (&[], 0),
        ] {
            let mut negotiation = Negotiation::new();
            assert_eq!(negotiation.version(), 4);
            assert_eq!(negotiation.handle_response(v0(35, keys)).unwrap(), Step::Again);
            assert_eq!(negotiation.version(), expected, "{keys:?}");
            assert!(negotiation.handle_response(v0(35, keys)).is_err(), "no second retry");
        }
    }

    #[test]
    fn the_table_gives_the_highest_common_version() {
        let mut negotiation = Negotiation::oldest();
        let Step::Done(versions) =
            negotiation.handle_response(v0(0, &[(18, 0, 4), (3, 4, 12), (0, 0, 2)])).unwrap()
        else {
            panic!("expected a table")
        };
        let range = |min, max| VersionRange { min, max };
        assert_eq!(versions.version(ApiKey::METADATA, range(0, 13)), Some(12));
        assert_eq!(versions.version(ApiKey::METADATA, range(0, 9)), Some(9));
        assert_eq!(versions.version(ApiKey::METADATA, range(0, 3)), None);
        assert_eq!(versions.version(ApiKey::PRODUCE, range(3, 12)), None);
        assert_eq!(versions.version(ApiKey::FETCH, range(4, 12)), None);
    }

    #[test]
    fn garbage_and_other_errors_are_failures() {
        for bytes in [
            &b""[..],
            &[0],
            &[0, 0],
            &[0, 0, 0xff, 0xff, 0xff, 0xfe],
            &[0, 0, 0x7f, 0xff, 0xff, 0xff],
            &[0, 42],
        ] {
            let failure = Negotiation::oldest()
                .handle_response(Reader::new(Bytes::copy_from_slice(bytes)))
                .unwrap_err();
            assert_eq!(failure.phase, Phase::Negotiate, "{bytes:?}");
        }
    }
}
