//! Fuzz targets for decoders of Kafka's wire format.
//!
//! A target is a function over a decoder and an input. It panics if the decoder does: if it accepts what cannot be,
//! contradicts itself, or takes more memory or steps than the input justifies. Decoders implement the traits of
//! [`decoder`], as many of them as they have; [`carafe`](mod@carafe) is one. See `README.md`.

pub mod carafe;
pub mod corpus;
pub mod decoder;
mod input;
pub mod limits;
pub mod seeds;
pub mod targets;

use crate::carafe::Carafe;

/// A target over carafe's decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target, of its program and of its corpus.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

impl Target {
    /// Runs one input, and prints it in hexadecimal if it panics.
    pub fn replay(&self, input: &[u8]) {
        struct Shown<'a>(&'a str, &'a [u8]);
        impl Drop for Shown<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("target {}, input {}", self.0, corpus::hex(self.1));
                }
            }
        }
        let shown = Shown(self.name, input);
        (self.run)(shown.1);
    }
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "frames", run: |input| targets::frames(&mut Carafe::default(), input) },
    Target { name: "responses", run: |input| targets::responses(&mut Carafe::default(), input) },
    Target { name: "requests", run: |input| targets::requests(&mut Carafe::default(), input) },
    Target { name: "fixpoint", run: |input| targets::fixpoint(&mut Carafe::default(), input) },
    Target { name: "records", run: |input| targets::records(&mut Carafe::default(), input) },
    Target { name: "compression", run: |input| targets::compression(&mut Carafe::default(), input) },
    Target { name: "committed", run: |input| targets::committed(&mut Carafe::default(), input) },
    Target { name: "sasl", run: |input| targets::sasl(&mut Carafe::default(), input) },
];

/// The target of this name.
///
/// # Panics
///
/// There is none.
pub fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

/// The program of a target: libFuzzer under cargo-fuzz; otherwise one that runs the inputs in the files it is given, which
/// needs no C++.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|input: &[u8]| ($crate::target($name).run)(input));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::corpus::run_files($crate::target($name))
        }
    };
}

/// The README's program, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
