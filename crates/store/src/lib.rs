//! codegen-store
