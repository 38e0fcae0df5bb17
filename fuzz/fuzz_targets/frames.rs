//! Target of the same name in `carafe_fuzz::targets`.

#![cfg_attr(fuzzing, no_main)]

carafe_fuzz::target!("frames");
