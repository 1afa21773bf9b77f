//! A filter's text form reads back as the same filter.
#![no_main]

use blazedb_core::Filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for parse in [Filter::parse, Filter::parse_rule] {
        if let Ok(filter) = parse(text) {
            let printed = filter.to_string();
            assert_eq!(parse(&printed).as_ref(), Ok(&filter), "{printed}");
        }
    }
});
