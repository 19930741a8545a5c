//! codegen-gateway
