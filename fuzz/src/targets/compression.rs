use crate::decoder::Codecs;
use crate::input::Input;
use crate::limits::within;

/// Compressed data under a cap, and data that is compressed first.
///
/// Input: codec and direction (1 byte), level (1 byte), the cap in units of 64 bytes (2 bytes), data.
pub fn compression(decoder: &mut impl Codecs, input: &[u8]) {
    let mut input = Input::new(input);
    let which = input.u8();
    let codec = (which % 5) as i8;
    let level = input.u8() as i8;
    let cap = usize::from(input.u16() >> 3) * 64;
    let data = input.rest();
    if which >= 128 {
        let level = (level != 0).then_some(level.into());
        let packed = decoder.compress(codec, level, data);
        assert_eq!(decoder.decompress(codec, &packed, data.len()).as_deref(), Ok(data));
        return;
    }
    let once = within(data.len(), || decoder.decompress(codec, data, cap));
    // The cap is exact.
    if let Ok(out) = &once {
        assert!(out.len() <= cap);
        assert_eq!(decoder.decompress(codec, data, out.len()).as_deref(), Ok(&out[..]));
        if let Some(less) = out.len().checked_sub(1) {
            assert!(
                decoder.decompress(codec, data, less).is_err(),
                "{} bytes under a cap of {less}",
                out.len()
            );
        }
    }
    // Whatever the data did to a context that is kept, the next is read right.
    let text = b"text and text and text";
    let packed = decoder.compress(codec, None, text);
    assert_eq!(decoder.decompress(codec, &packed, text.len()).as_deref(), Ok(&text[..]));
}
