// RTNeural's LSTM as a peer of clib.c: models whose sizes are known when they are compiled, by one of its backends.
//
//     c++ -std=c++17 -O3 -march=native -DNDEBUG -DRTNEURAL_NAMESPACE=RTNeural -DRTNEURAL_DEFAULT_ALIGNMENT=32
//         -DRTNEURAL_USE_EIGEN=1 -DEIGEN_STACK_ALLOCATION_LIMIT=0 -I RTNeural -I RTNeural/modules/Eigen
//         -fPIC -shared benchmarks/rtneural.cpp -o eigen.so
//
// and likewise RTNEURAL_USE_XSIMD with RTNeural/modules/xsimd/include, or RTNEURAL_USE_STL. These are the options that
// its makers recommend; -ffast-math is none of them. Each library stays in a namespace of its own: its caller loads it.

#include <cstring>
#include <vector>

#include <RTNeural/RTNeural.h>

namespace
{

template <int I, int H> struct Peer {
    RTNeural::ModelT<float, I, H, RTNeural::LSTMLayerT<float, I, H>> model;

    // Its weights lie by inputs, [k][4 H], with the gates in our order, i, f, g, o; there is one bias.
    Peer(const float *w_ih, const float *w_hh, const float *b)
    {
        std::vector<std::vector<float>> inputs(I, std::vector<float>(4 * H)), outputs(H, std::vector<float>(4 * H));
        for (int row = 0; row < 4 * H; row++) {
            for (int k = 0; k < I; k++)
                inputs[k][row] = w_ih[row * I + k];
            for (int k = 0; k < H; k++)
                outputs[k][row] = w_hh[row * H + k];
        }
        auto &lstm = model.template get<0>();
        lstm.setWVals(inputs);
        lstm.setUVals(outputs);
        lstm.setBVals(std::vector<float>(b, b + 4 * H));
        model.reset();
    }

    static void steps(void *peer, long count, const float *x, float *y)
    {
        auto &model = static_cast<Peer *>(peer)->model;
        for (; count > 0; count--, x += I, y += H) {
            model.forward(x);
            std::memcpy(y, model.getOutputs(), H * sizeof(float));
        }
    }
};

} // namespace

typedef void Steps(void *peer, long count, const float *x, float *y);

// Return a model of these sizes, and the function that makes its steps; NULL if it is not compiled.
extern "C" void *peer_make(int inputs, int units, const float *w_ih, const float *w_hh, const float *b, Steps **steps)
{
#define SIZES(I, H) \
    if (inputs == I && units == H) { \
        *steps = Peer<I, H>::steps; \
        return new Peer<I, H>(w_ih, w_hh, b); \
    }
    SIZES(1, 16)
    SIZES(1, 32)
    SIZES(1, 40)
    SIZES(64, 64)
    SIZES(128, 128)
    return nullptr;
}
