//! Whatever is accepted encodes back to the same bytes, and the lazy readers agree with the strict one.
#![no_main]

use blazedb_core::blazebinary::{
    RecordBuilder, RecordView, decode_value, encode_value, get_field, validate_record, validate_value,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let value = decode_value(bytes);
    assert_eq!(value.is_ok(), validate_value(bytes).is_ok());
    if let Ok(value) = value {
        let mut again = Vec::new();
        encode_value(&value, &mut again);
        assert_eq!(again, bytes);
    }
    // The lazy readers take anything, valid or not.
    if let Ok(view) = RecordView::parse(bytes) {
        view.iter().for_each(|(field, _)| drop(get_field(bytes, field)));
    }
    if validate_record(bytes).is_ok() {
        let view = RecordView::parse(bytes).expect("a valid record has a view");
        let mut builder = RecordBuilder::new();
        for (field, value) in view.iter() {
            assert_eq!(get_field(bytes, field), Some(value));
            builder.push(field, &value.decode().expect("valid")).expect("valid");
        }
        let mut again = Vec::new();
        builder.finish_into(&mut again);
        assert_eq!(again, bytes);
    }
});
