//! Layers as they begin, before anything is learned.

mod support;

use burn::tensor::Device;
use refrain::nn::{
    ForgetBias, GruConfig, InitialWeights, Initializer, InputGate, Layer, LayerConfig, LstmConfig, Nonlinearity,
    RnnConfig,
};
use support::values;

/// `weight_ih`, `weight_hh` and `bias` of an initial layer, seed 1.
fn initial(config: impl Into<LayerConfig>) -> [Vec<f32>; 3] {
    let device = Device::flex();
    parameters(&config.into().init(&mut Initializer::new(1, &device)))
}

/// FNV-1a over the bits of an initial layer.
fn fingerprint(config: impl Into<LayerConfig>) -> u64 {
    let bytes = initial(config).concat().into_iter().flat_map(f32::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn parameters(layer: &Layer) -> [Vec<f32>; 3] {
    match layer {
        Layer::Lstm(layer) => [values(layer.weight_ih.val()), values(layer.weight_hh.val()), values(layer.bias.val())],
        Layer::Gru(layer) => [values(layer.weight_ih.val()), values(layer.weight_hh.val()), values(layer.bias.val())],
        Layer::Rnn(layer) => [values(layer.weight_ih.val()), values(layer.weight_hh.val()), values(layer.bias.val())],
        Layer::MinGru(layer) => [values(layer.weight_ih.val()), Vec::new(), values(layer.bias.val())],
    }
}

/// What a seed trains to is documented: its first weights stay as they are.
#[test]
fn the_usual_first_weights_are_the_same_bits_in_every_version() {
    let relu = RnnConfig { nonlinearity: Nonlinearity::Relu, ..RnnConfig::new(5, 7) };
    let coupled = LstmConfig { input_gate: InputGate::Coupled, ..LstmConfig::new(5, 7) };
    let found = [
        fingerprint(LstmConfig::new(5, 7)),
        fingerprint(coupled),
        fingerprint(GruConfig::new(5, 7)),
        fingerprint(RnnConfig::new(5, 7)),
        fingerprint(relu),
    ];
    let expected = [
        2_074_204_534_636_753_188,
        6_551_313_772_003_052_895,
        1_961_178_640_511_081_758,
        5_475_802_289_019_989_363,
        5_637_563_330_055_708_184,
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_layers_weights_begin_as_its_configuration_says() {
    let (input_weights, recurrent_weights) =
        (Some(InitialWeights::Normal { deviation: 2.0 }), Some(InitialWeights::Identity));
    let layers = [
        initial(LstmConfig { input_weights, recurrent_weights, ..LstmConfig::new(40, 30) }),
        initial(GruConfig { input_weights, recurrent_weights, ..GruConfig::new(40, 30) }),
        initial(RnnConfig { input_weights, recurrent_weights, ..RnnConfig::new(40, 30) }),
    ];
    for ([weight_ih, weight_hh, _], gates) in layers.iter().zip([4, 3, 1]) {
        assert_eq!((weight_ih.len(), weight_hh.len()), (gates * 30 * 40, gates * 30 * 30));
        let variance = weight_ih.iter().map(|value| f64::from(value.powi(2))).sum::<f64>() / weight_ih.len() as f64;
        assert!((variance - 4.0).abs() < 0.6, "{gates} gates: {variance}");
        for (index, &value) in weight_hh.iter().enumerate() {
            let (row, column) = (index / 30, index % 30);
            let expected = f32::from(u8::from(row % 30 == column));
            assert_eq!(value.to_bits(), expected.to_bits(), "{gates} gates: [{row}, {column}] is {value}");
        }
    }
}

#[test]
fn the_rectifiers_usual_weights_are_those_of_the_irnn() {
    let weights = |input_weights, recurrent_weights| {
        let nonlinearity = Nonlinearity::Relu;
        initial(RnnConfig { nonlinearity, input_weights, recurrent_weights, ..RnnConfig::new(5, 7) })
    };
    let irnn = weights(Some(InitialWeights::Normal { deviation: 1e-3 }), Some(InitialWeights::Identity));
    assert_eq!(weights(None, None), irnn);
    assert_ne!(weights(Some(InitialWeights::HeNormal), None), irnn);
}

#[test]
fn chrono_biases_are_logarithms_of_times_up_to_the_longest() {
    let forget_bias = ForgetBias::Chrono { max_steps: 1000 };
    let config = LstmConfig { forget_bias, ..LstmConfig::new(2, 600) };
    let [weight_ih, weight_hh, bias] = initial(config);
    let (input, forget) = (&bias[..600], &bias[600..1200]);
    assert!(bias[1200..].iter().all(|&value| value == 0.0), "the candidate and the output gate begin at 0");
    assert!(input.iter().zip(forget).all(|(input, forget)| input.to_bits() == (-forget).to_bits()));
    // 1 / (1 - σ(b)) = 1 + exp(b) steps: uniform between 2 and 1000.
    let steps: Vec<f64> = forget.iter().map(|&value| 1.0 + f64::from(value).exp()).collect();
    assert!(steps.iter().all(|steps| (2.0..1000.1).contains(steps)));
    let mean = steps.iter().sum::<f64>() / 600.0;
    assert!((mean - 501.0).abs() < 60.0, "{mean}");
    assert!(steps.iter().any(|&steps| steps < 30.0) && steps.iter().any(|&steps| steps > 970.0));
    // The bias is drawn after the weights, which stay what they were.
    assert_eq!([weight_ih, weight_hh], initial(LstmConfig::new(2, 600))[..2]);

    let [_, _, coupled] = initial(LstmConfig { input_gate: InputGate::Coupled, ..config });
    assert_eq!(coupled[..600], *forget, "coupled gates have one bias for both");
    assert!(coupled[600..].iter().all(|&value| value == 0.0));
}

#[test]
fn a_constant_forget_bias_is_that_of_the_forget_gate_alone() {
    let [_, _, bias] = initial(LstmConfig { forget_bias: 2.5.into(), ..LstmConfig::new(2, 3) });
    assert_eq!(bias, [[0.0; 3], [2.5; 3], [0.0; 3], [0.0; 3]].concat());
}

#[test]
#[should_panic(expected = "chrono initialisation for 1 steps: dependencies are of 2 at least")]
fn dependencies_of_a_single_step_are_refused() {
    initial(LstmConfig { forget_bias: ForgetBias::Chrono { max_steps: 1 }, ..LstmConfig::new(2, 3) });
}
