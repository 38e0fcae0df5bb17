//! As much of DER as key files and certificates take: values one behind the other, each a tag and its content.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, of a value that has a tag of its own inside.
pub(super) const EXPLICIT_0: u8 = 0xa0;
/// `[0]`, instead of the tag of plain bytes.
pub(super) const IMPLICIT_0: u8 = 0x80;

/// Reads values from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next value, whatever it is; `None` at the end, or where the bytes are no value.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Four bytes of length are more than any file that is read.
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let content = ahead.any().filter(|(found, _)| *found == tag)?.1;
        *self = ahead;
        Some(content)
    }

    /// The values inside the next one, which must have this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    /// The next value with its tag and length.
    pub(super) fn whole(&mut self) -> Option<&'a [u8]> {
        let before = self.0;
        self.any()?;
        before.get(..before.len() - self.0.len())
    }

    /// The next value, which must be a number that is not negative.
    pub(super) fn number(&mut self) -> Option<u32> {
        let bytes = self.take(INTEGER)?;
        let positive = bytes.first().is_some_and(|first| *first < 0x80);
        (positive && bytes.len() <= 4)
            .then(|| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Issuer and subject of a certificate, as they stand in it.
pub(super) fn issuer_and_subject(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Der::new(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    // The version, where it is not the first.
    fields.take(EXPLICIT_0);
    fields.take(INTEGER)?;
    fields.take(SEQUENCE)?;
    let issuer = fields.whole()?;
    fields.take(SEQUENCE)?;
    Some((issuer, fields.whole()?))
}

/// From when and until when a certificate is valid, in seconds since the Unix epoch.
pub(super) fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let mut fields = Der::new(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    fields.take(EXPLICIT_0);
    fields.take(INTEGER)?;
    fields.take(SEQUENCE)?;
    fields.whole()?;
    let mut times = fields.enter(SEQUENCE)?;
    let mut time = || {
        let (tag, text) = times.any()?;
        let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        // UTCTime has two digits of the year, which lies in 1950 to 2049; GeneralizedTime has four.
        let (year, rest) = match tag {
            0x17 => {
                let (year, rest) = digits.split_at_checked(2)?;
                let year: i64 = year.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            0x18 => {
                let (year, rest) = digits.split_at_checked(4)?;
                (year.parse().ok()?, rest)
            }
            _ => return None,
        };
        let two = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
        let (month, day) = (two(0)?, two(2)?);
        let seconds = (two(4)? * 60 + two(6)?) * 60 + if rest.len() > 8 { two(8)? } else { 0 };
        Some(days(year, month, day) * 86_400 + seconds)
    };
    Some((time()?, time()?))
}

/// Days from the Unix epoch to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March: the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// A time in seconds since the Unix epoch, for people: `2026-11-30 21:45 UTC`.
pub(super) fn readable(seconds: u64) -> String {
    let (whole, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970 + i64::try_from(whole / 366).unwrap_or(0);
    let day = i64::try_from(whole).unwrap_or(i64::MAX);
    while days(year + 1, 1, 1) <= day && year < 9999 {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    let (hour, minute) = (rest / 3600, rest / 60 % 60);
    let day = day - days(year, month, 1) + 1;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_they_say_or_there_are_none() {
        let mut der = Der::new(&[INTEGER, 1, 5, OCTET_STRING, 0x81, 2, 7, 8, SEQUENCE, 0]);
        assert_eq!(der.take(OID), None);
        assert_eq!(der.number(), Some(5));
        assert_eq!(der.take(OCTET_STRING), Some(&[7, 8][..]));
        assert!(der.enter(SEQUENCE).is_some_and(Der::is_empty));
        assert!(der.is_empty() && der.any().is_none());
        for bytes in [&[INTEGER][..], &[INTEGER, 2, 0], &[INTEGER, 0x85, 0, 0, 0, 0, 0], &[INTEGER, 0x80]] {
            assert_eq!(Der::new(bytes).any(), None, "{bytes:?}");
        }
        for negative_or_large in [&[INTEGER, 1, 0x80][..], &[INTEGER, 5, 1, 0, 0, 0, 0], &[INTEGER, 0]] {
            assert_eq!(Der::new(negative_or_large).number(), None);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00 UTC"),
            (4_102_444_800, "2100-01-01 00:00 UTC"),
        ] {
            assert_eq!(readable(seconds), text);
        }
    }
}
