//! Random messages in every version, written from their description with code that shares nothing with carafe's.

mod grammar;
mod value;

pub use grammar::{Field, Shape, Struct, Type, shapes};
pub use value::{Bias, Dice, Sample, Writer};
