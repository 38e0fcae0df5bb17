//! Topic ids, member ids and directory ids.

use std::fmt;

/// A 16-byte identifier. All zeros means none. Prints as Kafka's tools do: URL-safe base64 without padding.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// No identifier.
    pub const ZERO: Self = Self([0; 16]);

    /// True for [`ZERO`](Self::ZERO).
    pub const fn is_zero(&self) -> bool {
        u128::from_be_bytes(self.0) == 0
    }

    /// The identifier in Kafka's notation (22 characters of URL-safe base64); `None` if `text` is not one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 22 {
            return None;
        }
        let mut value: u128 = 0;
        let mut last = 0;
        for (position, byte) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
            if position < 21 {
                value = value << 6 | digit;
            } else {
                last = digit;
            }
        }
        // The last digit carries two bits; the other four must be zero.
        (last & 15 == 0).then(|| Self((value << 2 | last >> 4).to_be_bytes()))
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        let mut text = String::with_capacity(22);
        for position in 0..21 {
            text.push(char::from(ALPHABET[(value >> (122 - 6 * position)) as usize & 63]));
        }
        text.push(char::from(ALPHABET[(value as usize & 3) << 4]));
        f.pad(&text)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_kafka_does() {
        // Kafka's reserved ids: all zeros, one, and two examples of its documentation.
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid(1u128.to_be_bytes()).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        let id = Uuid(std::array::from_fn(|i| i as u8 * 16 + 3));
        assert_eq!(Uuid::parse(&id.to_string()), Some(id));
        let ones = Uuid([0xff; 16]);
        assert_eq!(ones.to_string(), "_____________________w");
        assert_eq!(Uuid::parse("_____________________w"), Some(ones));
        assert_eq!(Uuid::parse("______________________"), None);
        assert_eq!(Uuid::parse("short"), None);
        assert_eq!(Uuid::parse("AAAAAAAAAAAAAAAAAAAAA="), None);
    }
}
