//! Whatever is accepted as a question or an answer says the same again.
#![no_main]

use blazedb_core::wire::ask::{Answer, Ask};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ask) = Ask::decode(bytes) {
        assert_eq!(ask.encode(), bytes);
    }
    if let Ok(answer) = Answer::decode(bytes) {
        // Names may be listed in another order, or be there for nothing.
        let again = answer.encode().map(|bytes| Answer::decode(&bytes));
        assert_eq!(format!("{again:?}"), format!("{:?}", Ok::<_, ()>(Ok::<_, ()>(answer))));
    }
});
