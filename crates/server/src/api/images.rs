//! Images of a prompt: data URIs, checked before they are kept.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::body::Fields;

const MOST: usize = 10;
const LARGEST: usize = 10 << 20;

/// The list `images` of the body, every item checked.
pub fn read(fields: &mut Fields<'_>) -> Option<Vec<String>> {
    let images = fields.optional_texts("images")?;
    let before = fields.failures.len();
    if images.len() > MOST {
        fields.fail(&["body", "images"], "too_long", format!("List should have at most {MOST} items"));
    }
    for (index, image) in images.iter().enumerate().take(MOST) {
        if let Err(why) = check(image) {
            fields.fail_item("images", index, "value_error", format!("Value error, {why}"));
        }
    }
    (fields.failures.len() == before).then_some(images)
}

fn check(image: &str) -> Result<(), String> {
    let shape = "an image is a data URI such as data:image/png;base64,...";
    let (kind, data) = image.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")).ok_or(shape)?;
    let begins: &[&[u8]] = match kind {
        "image/png" => &[b"\x89PNG\r\n\x1a\n"],
        "image/jpeg" => &[b"\xff\xd8\xff"],
        "image/gif" => &[b"GIF87a", b"GIF89a"],
        "image/webp" => &[b"RIFF"],
        _ => return Err("only png, jpeg, gif and webp images are taken".to_owned()),
    };
    if data.len() > LARGEST.div_ceil(3) * 4 {
        return Err(format!("an image has at most {} MB", LARGEST >> 20));
    }
    let bytes = STANDARD.decode(data).map_err(|_| "its data is not base64".to_owned())?;
    if !begins.iter().any(|begin| bytes.starts_with(begin)) {
        return Err(format!("its data is not of the type {kind}"));
    }
    Ok(())
}
