//! Routed applications.
mod processing;
