//! The route table: each route with the rule that its handler's signature gives it. A handler without a rule, one that
//! takes no `Asked<...>`, is no route unless it is marked as [`open`].

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    auth::{Access, Asked},
    rights::{self, Scope, Who},
};
use crate::App;

/// A route and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// How it is asked.
    pub method: Method,
    /// With its parameters in braces.
    pub path: String,
    /// Who may call it.
    pub who: Who,
    /// What a token with scopes needs for it; none where any token will do.
    pub scope: Option<Scope>,
}

/// A handler that says who may call it.
#[diagnostic::on_unimplemented(
    message = "this handler does not say who may call it",
    note = "its last argument is `Asked<A, I>`, with A one of Caller, InOrg, Manager, Admin; or mark it as `open(...)`"
)]
pub trait Ruled<T> {
    /// Who may.
    const WHO: Who;
}

macro_rules! ruled {
    ($($argument:ident),*) => {
        impl<F, M, $($argument,)* A: Access, I> Ruled<(M, $($argument,)* Asked<A, I>,)> for F {
            const WHO: Who = A::WHO;
        }
    };
}
ruled!();
ruled!(T1);
ruled!(T1, T2);
ruled!(T1, T2, T3);
ruled!(T1, T2, T3, T4);

/// A handler that anyone may call, without a token.
#[derive(Clone)]
pub struct Open<H>(H);

/// Tells the arguments of an open handler from those of a ruled one.
pub struct OpenTo<T>(std::marker::PhantomData<T>);

/// Lets anyone call this handler.
pub fn open<H>(handler: H) -> Open<H> {
    Open(handler)
}

impl<H: Handler<T, S>, T, S> Handler<OpenTo<T>, S> for Open<H> {
    type Future = H::Future;

    fn call(self, request: Request, state: S) -> Self::Future {
        self.0.call(request, state)
    }
}

impl<H, T> Ruled<OpenTo<T>> for Open<H> {
    const WHO: Who = Who::Anyone;
}

/// Handlers of one path, by method.
pub struct Methods {
    router: MethodRouter<Arc<App>>,
    rules: Vec<(Method, Who)>,
}

macro_rules! methods {
    ($($(#[$attribute:meta])* $name:ident $method:ident;)*) => {
        $(
            $(#[$attribute])*
            #[doc = concat!("Answers ", stringify!($method), ".")]
            pub fn $name<H: Handler<T, Arc<App>> + Ruled<T>, T: 'static>(handler: H) -> Methods {
                Methods { router: on(MethodFilter::$method, handler), rules: vec![(Method::$method, H::WHO)] }
            }
        )*
        impl Methods {
            $(
                $(#[$attribute])*
                #[doc = concat!("Answers ", stringify!($method), " too.")]
                pub fn $name<H: Handler<T, Arc<App>> + Ruled<T>, T: 'static>(mut self, handler: H) -> Self {
                    self.rules.push((Method::$method, H::WHO));
                    Self { router: self.router.on(MethodFilter::$method, handler), rules: self.rules }
                }
            )*
        }
    };
}
methods! {
    get GET;
    post POST;
    put PUT;
    patch PATCH;
    delete DELETE;
}

/// Routes being collected.
pub struct Routes {
    /// What answers them.
    pub router: Router<Arc<App>>,
    /// Them.
    pub table: Vec<Route>,
}

impl Routes {
    /// None.
    pub fn new() -> Self {
        Self { router: Router::new(), table: Vec::new() }
    }

    /// Adds a path.
    pub fn route(mut self, path: &str, methods: Methods) -> Self {
        self.table.extend(methods.rules.into_iter().map(|(method, who)| Route {
            method,
            path: path.to_owned(),
            who,
            scope: None,
        }));
        Self { router: self.router.route(path, methods.router), table: self.table }
    }

    /// Adds all paths of others below a path.
    pub fn nest(mut self, path: &str, routes: Self) -> Self {
        let below = routes.table.into_iter().map(|route| Route { path: format!("{path}{}", route.path), ..route });
        self.table.extend(below);
        Self { router: self.router.nest(path, routes.router), table: self.table }
    }

    /// The table, with scopes.
    pub fn into_table(self) -> Vec<Route> {
        let scoped = self.table.into_iter().map(|route| {
            let scope = match route.who {
                Who::Anyone => None,
                Who::Caller | Who::Person | Who::Member | Who::Manager | Who::Admin => {
                    rights::scope_of(&route.method, &route.path)
                }
            };
            Route { scope, ..route }
        });
        scoped.collect()
    }
}
