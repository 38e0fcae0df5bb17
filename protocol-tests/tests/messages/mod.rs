//! Every message in every version: written from its description alone, then read and written again by carafe and by
//! `kafka-protocol`; cut short, changed and lied about.

pub(crate) mod codecs;
mod differential;
mod hostile;
mod round_trip;
