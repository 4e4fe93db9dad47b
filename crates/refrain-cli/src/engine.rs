//! Threads and kernel: the arguments that every computing command shares.

use std::num::NonZeroUsize;

use refrain::kernels::{Bf16Support, Engine, Isa};
use refrain::models::{Dtype, PrecisionKind, TrainedModel};

use crate::failure::Usage;

#[derive(Debug, clap::Args)]
pub(crate) struct EngineArgs {
    /// Threads to compute with [default: the processors this process may use]
    ///
    /// The result is the same to the byte with any number.
    #[arg(long, value_name = "N", help_heading = "Computing", value_parser = at_least_one)]
    threads: Option<NonZeroUsize>,
    /// Instruction set of the kernels: auto, amx, avx512, avx2 or portable
    ///
    /// auto takes the one that the environment variable `REFRAIN_ISA` names, else the one that is usually the fastest here:
    /// `refrain bench` compares. Results differ between instruction sets in the last bits.
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Computing")]
    kernel: String,
}

/// An argument that counts something.
pub(crate) fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "an integer of at least 1".to_owned())
}

impl EngineArgs {
    /// Makes the engine and says in one phrase what was chosen and why; [`products`] goes behind it.
    pub(crate) fn install(&self) -> anyhow::Result<String> {
        let supported = Isa::supported();
        let names: Vec<&str> = supported.iter().map(|isa| isa.name()).collect();
        let (isa, why) = if self.kernel == "auto" {
            let isa = Isa::from_environment()
                .map_err(|error| Usage::error(error.to_string(), format!("this processor has {}", names.join(", "))))?;
            let asked = std::env::var_os("REFRAIN_ISA").is_some();
            let usual = || format!("usually the fastest of {}", names.join(", "));
            (isa, if asked { "asked for by REFRAIN_ISA".to_owned() } else { usual() })
        } else {
            let isa = self.kernel.parse().ok().filter(|isa| supported.contains(isa)).ok_or_else(|| {
                Usage::error(
                    format!("--kernel {}: this processor does not have it", self.kernel),
                    format!("it has {}, or let `auto` choose", names.join(", ")),
                )
            })?;
            (isa, "asked for by --kernel".to_owned())
        };
        let available = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = self.threads.map_or(available, NonZeroUsize::get);
        Engine::set_current(Engine::new(isa, threads)?);
        let plural = if threads == 1 { "" } else { "s" };
        Ok(format!("{threads} thread{plural}, kernel {isa} ({why})"))
    }
}

/// How the engine computes the products of a model of this precision, as the end of the phrase that names the engine; nothing
/// to say of f32.
pub(crate) fn products(precision: PrecisionKind) -> &'static str {
    match (precision, Engine::current().bf16_support()) {
        (PrecisionKind::F32, _) => "",
        (PrecisionKind::Bf16, Bf16Support::Amx) => "; products in bf16 (AMX)",
        (PrecisionKind::Bf16, Bf16Support::Avx512) => "; products in bf16 (AVX-512 BF16)",
        (PrecisionKind::Bf16, Bf16Support::Emulated) => {
            "; products in bf16, emulated: there are no fast instructions for it here, f32 trains as fast"
        }
    }
}

/// As [`products`], of a model that is there; what is said of its weights where they are not f32.
pub(crate) fn of_model(trained: &TrainedModel) -> &'static str {
    match trained.model.weights() {
        Dtype::F32 => products(trained.config.precision),
        Dtype::I8 => "; weights in int8",
    }
}
