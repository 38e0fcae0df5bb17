//! Signature Version 4 of AWS for requests whose signature stands in the query ("presigned").

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::Hmac;
use sha2::{Digest, Sha256};

use super::http::encoded;

/// What is signed, and where it is valid.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) access_key: &'a str,
    pub(super) secret_key: &'a str,
    pub(super) session_token: Option<&'a str>,
}

/// A signed query: its parts in order, the signature last.
#[derive(Debug, PartialEq)]
pub(super) struct Signed {
    pub(super) credential: String,
    pub(super) date: String,
    pub(super) signature: String,
}

/// Signs a GET of `path` at `host` with these parameters beside those of the signature.
pub(super) fn presign(
    scope: &Scope<'_>,
    host: &str,
    path: &str,
    parameters: &[(&str, &str)],
    expires: u32,
    payload: &str,
    now: SystemTime,
) -> Signed {
    let date = timestamp(now);
    let day = &date[..8];
    let within = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let credential = format!("{}/{within}", scope.access_key);
    let expires = expires.to_string();
    let mut query = vec![
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Date", &date),
        ("X-Amz-Expires", &expires),
        ("X-Amz-SignedHeaders", "host"),
    ];
    query.extend(scope.session_token.map(|token| ("X-Amz-Security-Token", token)));
    query.extend(parameters);
    let mut query: Vec<String> =
        query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    query.sort();
    let canonical = format!("GET\n{path}\n{}\nhost:{host}\n\nhost\n{payload}", query.join("&"));
    let hashed = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{within}\n{hashed}");
    let signature = hex(&mac(&key(scope, day), text.as_bytes()));
    Signed { credential, date, signature }
}

/// The key of one day, region and service.
fn key(scope: &Scope<'_>, day: &str) -> Vec<u8> {
    let first = mac(format!("AWS4{}", scope.secret_key).as_bytes(), day.as_bytes());
    [scope.region, scope.service, "aws4_request"].iter().fold(first, |key, part| mac(&key, part.as_bytes()))
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    super::scram::mac::<Hmac<Sha256>>(key, message)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a body that is empty.
pub(super) fn empty() -> String {
    hex(&Sha256::digest(b""))
}

/// `20130524T000000Z`, in the calendar that everyone has.
pub(super) fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the day that some lack is the last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The time that `2013-05-24T00:00:00Z` says.
pub(super) fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour.min(24) * 3_600 + minute.min(60) * 60 + second.min(60);
    Some(UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_key_of_aws_own_example() {
        let scope = Scope {
            region: "us-east-1",
            service: "iam",
            access_key: "",
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session_token: None,
        };
        let expected = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9";
        assert_eq!(hex(&key(&scope, "20150830")), expected);
    }

    #[test]
    fn the_presigned_query_of_aws_own_example() {
        let scope = Scope {
            region: "us-east-1",
            service: "s3",
            access_key: "AKIAIOSFODNN7EXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            session_token: None,
        };
        let now = parse_time("2013-05-24T00:00:00Z").unwrap();
        let host = "examplebucket.s3.amazonaws.com";
        let signed = presign(&scope, host, "/test.txt", &[], 86_400, "UNSIGNED-PAYLOAD", now);
        assert_eq!(signed.date, "20130524T000000Z");
        assert_eq!(signed.credential, "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request");
        let expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert_eq!(signed.signature, expected);
    }

    #[test]
    fn the_calendar_goes_both_ways() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_827_696, "20000229T123456Z"),
            (1_709_251_199, "20240229T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), text);
            let iso = format!(
                "{}-{}-{}T{}:{}:{}Z",
                &text[..4],
                &text[4..6],
                &text[6..8],
                &text[9..11],
                &text[11..13],
                &text[13..15]
            );
            assert_eq!(parse_time(&iso), Some(time));
        }
        for text in ["", "2013", "2013-13-01T00:00:00Z", "1969-01-01T00:00:00Z", "x013-01-01T00:00:00Z"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
