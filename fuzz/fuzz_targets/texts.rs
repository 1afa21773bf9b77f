//! Texts that come from outside: tokens, codes of invitations, records and edits in JSON, names of a join's filter.
#![no_main]

use blazedb_core::filter::{Filter, split_sided};
use blazedb_core::json::{edits_from_json, record_from_json};
use blazedb_core::keyring::Code;
use blazedb_core::wire::Token;
use blazedb_core::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.as_str(), text);
    }
    let _ = Code::parse(text);
    let _ = split_sided(text, "left", "right");
    if let Ok(filter) = Filter::parse(text) {
        let _ = filter.for_join("left", "right", Timestamp::from_millis(7)).to_string();
    }
    let Ok(json) = serde_json::from_str::<serde_json::Value>(text) else { return };
    let _ = edits_from_json(json.clone());
    let _ = record_from_json(json);
});
