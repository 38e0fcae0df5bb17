//! Bytes to compress, drawn from a seed.

use std::fmt;

use fastrand::Rng;

/// Around the sizes of blocks and windows that the codecs cut input into.
const SIZES: [usize; 16] = [
    0, 1, 7, 64, 1_000, 4_096, 16_384, 32_767, 32_769, 65_535, 65_537, 100_000, 131_071, 131_073, 300_000,
    1_000_000,
];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// One byte, over and over.
    Constant,
    /// What cannot be compressed.
    Noise,
    /// Events as JSON.
    Events,
    /// Events and noise in turn.
    Mixed,
    /// A piece of noise that comes again at distances up to the size.
    Echo,
    /// Records of a batch: short varints, ascending numbers, few distinct keys.
    Records,
}

const KINDS: [Kind; 6] = [Kind::Constant, Kind::Noise, Kind::Events, Kind::Mixed, Kind::Echo, Kind::Records];

pub(crate) struct Input {
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes", self.kind, self.bytes.len())
    }
}

/// Every kind in every size of at most `max` bytes.
pub(crate) fn inputs(seed: u64, max: usize) -> impl Iterator<Item = Input> {
    let mut dice = Rng::with_seed(seed);
    let sizes = SIZES.into_iter().filter(move |size| *size <= max);
    sizes.flat_map(|size| KINDS.map(|kind| (kind, size))).map(move |(kind, size)| {
        let mut bytes = make(kind, size, &mut dice);
        bytes.truncate(size);
        Input { kind, bytes }
    })
}

fn make(kind: Kind, size: usize, dice: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 1024);
    match kind {
        Kind::Constant => bytes.resize(size, dice.u8(..)),
        Kind::Noise => bytes.extend(std::iter::repeat_with(|| dice.u8(..)).take(size)),
        Kind::Events => {
            while bytes.len() < size {
                bytes.extend_from_slice(event(dice).as_bytes());
            }
        }
        Kind::Mixed => {
            while bytes.len() < size {
                bytes.extend_from_slice(event(dice).as_bytes());
                let noise = dice.usize(..300);
                bytes.extend(std::iter::repeat_with(|| dice.u8(..)).take(noise));
            }
        }
        Kind::Echo => {
            let piece: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(20).collect();
            while bytes.len() < size {
                bytes.extend_from_slice(&piece);
                let gap = dice.usize(..=size / 3 + 1);
                let from = dice.usize(..bytes.len());
                let copied: Vec<u8> = bytes[from..].iter().copied().take(gap).collect();
                bytes.extend_from_slice(&copied);
                bytes.push(dice.u8(..));
            }
        }
        Kind::Records => {
            for number in 0u32.. {
                if bytes.len() >= size {
                    break;
                }
                bytes.extend_from_slice(&[0x30, 0, (number % 64) as u8 * 2, (number as u8) << 1, 8]);
                bytes.extend_from_slice(format!("k{:03}", dice.u8(..20)).as_bytes());
                bytes.extend_from_slice(&[20, 1]);
                bytes.extend_from_slice(&u64::from(number).to_be_bytes());
                bytes.extend_from_slice(&[dice.u8(..), 0]);
            }
        }
    }
    bytes
}

fn event(dice: &mut Rng) -> String {
    let what = ["order", "cart", "login"][dice.usize(..3)];
    let (id, sku, price) = (dice.u64(..), dice.u16(..500), dice.u32(..100_000));
    format!("{{\"event\":\"{what}\",\"session\":\"{id:016x}\",\"sku\":\"sku-{sku}\",\"price\":{price}}}")
}
