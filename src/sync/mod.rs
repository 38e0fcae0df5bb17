//! Cells that several tasks share. Everything else in the crate has one owner.

pub(crate) mod budget;
