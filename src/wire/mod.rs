//! Kafka's wire format: frames, headers, messages and record batches. No I/O, no clock.
