//! Parts of answers, good and bad.
