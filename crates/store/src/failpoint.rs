//! Places at which a test ends the process as a crash would, on both sides of what must not be half done. Builds without debug
//! assertions have none.

/// Ends the process here, if a test has asked for it.
#[cfg(not(debug_assertions))]
pub fn hit(_: &str) {}

#[cfg(debug_assertions)]
pub use armed::{arm, hit};

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    struct Plan {
        name: String,
        /// Hits to come before the one that counts.
        left: AtomicU64,
    }

    static PLAN: OnceLock<Plan> = OnceLock::new();

    /// `NAME=N`: the process ends at the Nth hit of NAME.
    ///
    /// # Errors
    /// A sentence when the plan is not understood.
    pub fn arm(plan: &str) -> Result<(), String> {
        let (name, nth) = plan.split_once('=').ok_or_else(|| format!("{plan} is not NAME=N"))?;
        let left = nth.parse::<u64>().ok().and_then(|nth| nth.checked_sub(1));
        let left = left.ok_or_else(|| format!("{nth} is no number from 1"))?;
        PLAN.get_or_init(|| Plan { name: name.to_owned(), left: AtomicU64::new(left) });
        Ok(())
    }

    /// Ends the process here, if a test has asked for it.
    pub fn hit(name: &str) {
        if let Some(plan) = PLAN.get().filter(|plan| plan.name == name)
            && plan.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        {
            std::process::abort();
        }
    }
}
