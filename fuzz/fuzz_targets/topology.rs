//! No text makes the reader of topology files panic; what it accepts expands to links.
#![no_main]

use blazedb_core::topology::{ParseContext, PasswordRule, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let context = ParseContext {
        env: &|name| (name.len() < 4).then(|| "value".to_owned()),
        check_filter: &|_, _| Ok(()),
        passwords: PasswordRule::Optional,
    };
    match parse(text, &context) {
        Ok(spec) => drop(format!("{spec:?}")),
        Err(error) => drop(error.to_string()),
    }
});
