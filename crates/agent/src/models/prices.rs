//! What tokens cost, from one dated file.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::Usage;

/// A constant of the program in a readable form; parsed once.
static LIST: LazyLock<List> =
    LazyLock::new(|| toml::from_str(include_str!("prices.toml")).expect("a test reads the file that is built in"));

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Read at full price.
    pub input: f64,
    /// Written.
    pub output: f64,
    /// Read from the provider's cache; as `input` when none.
    pub cache_read: Option<f64>,
    /// Written to the provider's cache; as `input` when none.
    pub cache_write: Option<f64>,
}

impl Rates {
    fn cost(&self, usage: Usage) -> f64 {
        let parts = [
            (usage.input, self.input),
            (usage.output, self.output),
            (usage.cache_read, self.cache_read.unwrap_or(self.input)),
            (usage.cache_write, self.cache_write.unwrap_or(self.input)),
        ];
        parts.iter().map(|(tokens, rate)| *tokens as f64 * rate / 1e6).sum()
    }
}

/// Rates beyond a size of the input.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Long {
    above: u64,
    #[serde(flatten)]
    rates: Rates,
}

/// One model's price.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Price {
    rates: Rates,
    long: Option<Long>,
}

impl From<Rates> for Price {
    fn from(rates: Rates) -> Self {
        Self { rates, long: None }
    }
}

impl Price {
    /// US dollars of one call.
    pub fn cost(&self, usage: Usage) -> f64 {
        let input = usage.input.saturating_add(usage.cache_read).saturating_add(usage.cache_write);
        match &self.long {
            Some(long) if input > long.above => long.rates.cost(usage),
            Some(_) | None => self.rates.cost(usage),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    checked: String,
    ceiling: Rates,
    #[serde(rename = "price")]
    prices: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    model: String,
    long: Option<Long>,
    #[serde(flatten)]
    rates: Flat,
}

/// [`Rates`] without `deny_unknown_fields`, which does not go with `flatten`.
#[derive(Debug, Deserialize)]
struct Flat {
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
}

/// The day on which the prices were looked up, `YYYY-MM-DD`.
pub fn checked() -> &'static str {
    &LIST.checked
}

/// Names of the models that are listed, `provider/model`.
pub fn listed() -> impl Iterator<Item = &'static str> {
    LIST.prices.iter().map(|listed| listed.model.as_str())
}

/// The price of `provider/model`; the ceiling for a model that is not listed.
pub fn price(model: &str) -> Price {
    if model.starts_with("ollama/") || model.starts_with("scripted") {
        return Price::default();
    }
    let model = model.strip_prefix("openrouter/").unwrap_or(model);
    let model = match model.split_once('/') {
        Some(("google", name)) => format!("gemini/{name}"),
        Some(("x-ai", name)) => format!("xai/{name}"),
        _ => model.to_owned(),
    };
    // OpenRouter writes versions with a dot where Anthropic writes a dash.
    let model = if model.starts_with("anthropic/") { model.replace('.', "-") } else { model };
    let stands_for = |listed: &&Listed| {
        model.strip_prefix(&listed.model).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '@', ':']))
    };
    let listed = LIST.prices.iter().filter(stands_for).max_by_key(|listed| listed.model.len());
    match listed {
        Some(Listed { long, rates: Flat { input, output, cache_read, cache_write }, .. }) => Price {
            rates: Rates { input: *input, output: *output, cache_read: *cache_read, cache_write: *cache_write },
            long: *long,
        },
        None => Price { rates: LIST.ceiling, long: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn million(model: &str) -> f64 {
        price(model).cost(Usage { input: 100_000, ..Usage::default() }) * 10.0
    }

    #[test]
    fn dated_versions_have_the_price_of_their_model_and_unknown_ones_the_ceiling() {
        assert_eq!(checked().len(), 10);
        assert_eq!(million("anthropic/claude-sonnet-4-5-20250929"), 3.0);
        assert_eq!(million("openrouter/anthropic/claude-opus-4.5"), 5.0);
        assert_eq!(million("openai/gpt-5-mini"), 0.25);
        assert_eq!(million("openai/gpt-5.99"), LIST.ceiling.input);
        assert_eq!(million("ollama/qwen3"), 0.0);
    }

    #[test]
    fn cached_tokens_and_long_inputs_have_their_own_price() {
        let usage = Usage { input: 0, output: 1_000_000, cache_read: 100_000, cache_write: 0 };
        assert!((price("anthropic/claude-sonnet-4-5").cost(usage) - 15.03).abs() < 1e-9);
        let long = Usage { cache_read: 300_000, ..usage };
        assert!((price("anthropic/claude-sonnet-4-5").cost(long) - 22.68).abs() < 1e-9);
    }

    #[test]
    fn no_listed_model_is_dearer_than_its_long_input() {
        for listed in &LIST.prices {
            assert!(listed.long.is_none_or(|long| long.rates.input >= listed.rates.input), "{}", listed.model);
        }
    }
}
