//! Reading and showing the values of settings.

use std::str::FromStr;

use secrecy::SecretString;

pub fn put<T: FromStr>(slot: &mut T, text: &str, wrong: &str) -> Result<(), String> {
    *slot = text.trim().parse().map_err(|_| wrong.to_owned())?;
    Ok(())
}

pub fn above_zero(slot: &mut u64, text: &str) -> Result<(), String> {
    // The store keeps numbers as signed ones.
    let number = text.trim().parse().ok().filter(|n| (1..=i64::MAX as u64).contains(n));
    *slot = number.ok_or("must be a whole number above 0")?;
    Ok(())
}

/// A number that is days, hours or MiB: small enough to be counted in milliseconds or bytes.
pub fn whole(slot: &mut u64, text: &str) -> Result<(), String> {
    let number = text.trim().parse().ok().filter(|n| *n <= 1_000_000_000);
    *slot = number.ok_or("must be a whole number, at most 1000000000; 0 for no limit")?;
    Ok(())
}

pub fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "1" | "yes" => Ok(true),
        "off" | "false" | "0" | "no" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the table wants the shape")]
pub fn on_off(flag: bool) -> Option<String> {
    Some(if flag { "on" } else { "off" }.to_owned())
}

/// `host=value` of each item of a list.
pub fn per_host(text: &str) -> Result<impl Iterator<Item = (String, String)>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pairs: Option<Vec<_>> = items
        .map(|item| item.split_once('='))
        .map(|pair| pair.filter(|(host, value)| !host.is_empty() && !host.contains('/') && !value.is_empty()))
        .map(|pair| pair.map(|(host, value)| (host.trim().to_owned(), value.trim().to_owned())))
        .collect();
    Ok(pairs.ok_or("must have the form host=value, or several separated by commas")?.into_iter())
}

pub fn hidden(secret: &Option<SecretString>) -> Option<String> {
    secret.as_ref().map(|_| String::new())
}

pub fn key(slot: &mut Option<SecretString>, text: &str) -> Result<(), String> {
    if !text.trim().bytes().all(|b| b.is_ascii_graphic()) {
        return Err("has characters that no key has".to_owned());
    }
    *slot = Some(text.trim().into());
    Ok(())
}

pub fn base(slot: &mut Option<String>, text: &str) -> Result<(), String> {
    *slot = Some(url(text)?);
    Ok(())
}

/// An address without a slash at its end.
pub fn url(text: &str) -> Result<String, String> {
    let parsed = url::Url::parse(text.trim()).ok();
    let good = parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !good {
        return Err("must be an http or https URL".to_owned());
    }
    Ok(text.trim().trim_end_matches('/').to_owned())
}
