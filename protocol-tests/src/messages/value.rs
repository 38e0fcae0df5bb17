//! Random messages, written from their grammar with code of its own.

use super::grammar::{Shape, Struct, Type};

/// A source of numbers: a small generator (SplitMix64), or bytes that say what is rolled.
#[derive(Debug)]
pub struct Dice(Source);

#[derive(Debug)]
enum Source {
    State(u64),
    Script(std::vec::IntoIter<u8>),
}

impl Dice {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(Source::State(seed))
    }

    /// Rolls one byte after the other, zeros after the last: small changes of them make small changes of a message.
    pub fn scripted(script: &[u8]) -> Self {
        Self(Source::Script(Vec::from(script).into_iter()))
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        let state = match &mut self.0 {
            Source::State(state) => state,
            Source::Script(bytes) => return bytes.next().unwrap_or(0).into(),
        };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }
}

/// A message as bytes, and what lies where.
#[derive(Debug, Default)]
pub struct Sample {
    /// The message.
    pub bytes: Vec<u8>,
    /// Start, end and path of each value that is read in one step, in order.
    pub leaves: Vec<(usize, usize, String)>,
}

/// What random values tend to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// Some of everything.
    #[default]
    Mixed,
    /// Null wherever it is allowed.
    Null,
    /// Nothing in arrays, strings and bytes.
    Empty,
    /// The largest numbers, and lengths that take several bytes.
    Large,
}

/// Writes a random message.
#[derive(Debug)]
pub struct Writer<'a> {
    dice: &'a mut Dice,
    /// What was written so far.
    pub sample: Sample,
    /// What values tend to.
    pub bias: Bias,
    /// Writes variable-length numbers in five bytes, which no encoder does and every decoder reads.
    pub padded: bool,
    /// Adds tagged fields that nobody knows, with numbers of its own.
    pub strangers: Option<Dice>,
}

impl Shape {
    /// A message of this shape.
    pub fn sample(&self, dice: &mut Dice) -> Sample {
        let mut writer = Writer::new(dice);
        writer.put(&self.root, "", false);
        writer.sample
    }
}

impl<'a> Writer<'a> {
    /// A writer of an empty message.
    pub fn new(dice: &'a mut Dice) -> Self {
        Self { dice, sample: Sample::default(), bias: Bias::Mixed, padded: false, strangers: None }
    }

    /// Appends a value. A `plain` one is not null, not empty and no likely default, as tagged fields must be.
    pub fn put(&mut self, shape: &Type, path: &str, plain: bool) {
        let start = self.sample.bytes.len();
        match shape {
            Type::Bool => {
                let value = if plain { 1 } else { self.dice.below(2) as u8 };
                self.sample.bytes.push(value);
            }
            Type::Fixed(size) => {
                let mut value = self.fixed(*size, plain);
                self.sample.bytes.append(&mut value);
            }
            Type::Str { compact } => {
                let value = self.text(plain);
                let classic = |len: usize| (len as u16).to_be_bytes().to_vec();
                self.length(value.len(), *compact, classic);
                self.sample.bytes.extend_from_slice(value.as_bytes());
            }
            Type::Bytes { compact } => {
                let len = match self.bias {
                    Bias::Empty => 0,
                    Bias::Large => 16_384 + self.dice.below(40),
                    _ => self.dice.below(40),
                };
                let value: Vec<u8> = (0..len).map(|_| self.dice.roll() as u8).collect();
                self.length(value.len(), *compact, |len| (len as u32).to_be_bytes().to_vec());
                self.sample.bytes.extend(value);
            }
            Type::Array { compact, element } => {
                let fixed = matches!(**element, Type::Fixed(_));
                let count = match self.bias {
                    Bias::Empty => usize::from(plain),
                    Bias::Large if fixed => 128,
                    _ => self.dice.below(3) + usize::from(plain),
                };
                self.length(count, *compact, |len| (len as u32).to_be_bytes().to_vec());
                if let Type::Fixed(size) = **element {
                    for _ in 0..count {
                        let mut value = self.fixed(size, plain);
                        self.sample.bytes.append(&mut value);
                    }
                } else {
                    self.leaf(start, path);
                    for index in 0..count {
                        self.put(element, &format!("{path}[{index}]"), plain);
                    }
                    return;
                }
            }
            Type::Struct(shape) => return self.put_struct(shape, path, plain),
            Type::Nullable(inner) => {
                let null = !plain && (self.bias == Bias::Null || self.dice.below(4) == 0);
                match (&**inner, null) {
                    (Type::Struct(_), false) => self.sample.bytes.push(1),
                    (_, false) => {}
                    (Type::Struct(_), true) => self.sample.bytes.push(0xff),
                    (Type::Str { compact: false }, true) => self.sample.bytes.extend([0xff; 2]),
                    (Type::Bytes { compact: false } | Type::Array { compact: false, .. }, true) => {
                        self.sample.bytes.extend([0xff; 4]);
                    }
                    (_, true) => self.sample.bytes.push(0),
                }
                if null || matches!(**inner, Type::Struct(_)) {
                    self.leaf(start, path);
                }
                if !null {
                    self.put(inner, path, plain);
                }
                return;
            }
        }
        self.leaf(start, path);
    }

    fn leaf(&mut self, start: usize, path: &str) {
        self.sample.leaves.push((start, self.sample.bytes.len(), path.to_owned()));
    }

    fn put_struct(&mut self, shape: &Struct, path: &str, plain: bool) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for field in &shape.fields {
            self.put(&field.shape, &below(&field.name), plain);
        }
        let Some(known) = &shape.tagged else { return };
        let mut fields: Vec<(u32, Sample)> = Vec::new();
        for (tag, field) in known {
            if plain || self.dice.below(2) == 0 {
                let mut inner = Writer::new(self.dice);
                (inner.bias, inner.padded) = (self.bias, self.padded);
                inner.strangers = self.strangers.take();
                inner.put(&field.shape, &below(&field.name), true);
                self.strangers = inner.strangers.take();
                fields.push((*tag, inner.sample));
            }
        }
        if let Some(dice) = &mut self.strangers {
            for tag in 0..dice.below(3) as u32 {
                let bytes = (0..dice.below(200)).map(|_| dice.roll() as u8).collect();
                fields.push((1000 + tag * 100_000, Sample { bytes, leaves: Vec::new() }));
            }
        }
        let section = below("tagged_fields");
        let start = self.sample.bytes.len();
        self.uvarint(fields.len() as u32);
        for (tag, field) in fields {
            self.uvarint(tag);
            self.uvarint(field.bytes.len() as u32);
            let moved = self.sample.bytes.len();
            self.sample.bytes.extend(&field.bytes);
            let leaves =
                field.leaves.into_iter().map(|(start, end, path)| (start + moved, end + moved, path));
            self.sample.leaves.extend(leaves);
        }
        self.leaf(start, &section);
    }

    fn fixed(&mut self, size: usize, plain: bool) -> Vec<u8> {
        let small = |value: u8| {
            let mut bytes = vec![0; size];
            bytes[size - 1] = value;
            bytes
        };
        if plain {
            return small(self.dice.below(100) as u8 + 17);
        }
        match self.dice.below(6) {
            _ if self.bias == Bias::Large => (0..size).map(|at| if at == 0 { 0x7f } else { 0xfe }).collect(),
            0 => vec![0; size],
            // Not for eight bytes: it is a float that is not a number.
            1 if size != 8 => vec![0xff; size],
            2 => small(self.dice.below(4) as u8),
            _ => (0..size).map(|at| self.dice.roll() as u8 & if at == 0 { 0x3f } else { 0xff }).collect(),
        }
    }

    fn text(&mut self, plain: bool) -> String {
        let len = match self.dice.below(12) {
            _ if self.bias == Bias::Empty => 0,
            _ if self.bias == Bias::Large => 60,
            0 => 0,
            1 => 150,
            _ => self.dice.below(20),
        };
        let letters = ['a', 'Z', '0', '.', '_', 'é', '€', '🦀'];
        (0..len.max(usize::from(plain))).map(|_| letters[self.dice.below(letters.len())]).collect()
    }

    fn length(&mut self, len: usize, compact: bool, classic: impl Fn(usize) -> Vec<u8>) {
        if compact { self.uvarint(len as u32 + 1) } else { self.sample.bytes.extend(classic(len)) }
    }

    fn uvarint(&mut self, mut value: u32) {
        let mut len = 0;
        while value > 0x7f || self.padded && len < 4 {
            self.sample.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
            len += 1;
        }
        self.sample.bytes.push(value as u8);
    }
}
