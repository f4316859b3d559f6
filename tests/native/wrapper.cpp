/* fastlstm.hpp: each class gives what the functions of fastlstm.h give, bit for bit, refuses what it should, can be moved,
allocates nothing while it runs, and frees what it has.

    wrapper MODEL.fl INDICES.fl

MODEL.fl takes three floats a step and gives two; INDICES.fl takes indices below 5. The program prints what is wrong, and
ends with 1 if anything was. It is compiled with exceptions and without. */

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#if __cplusplus >= 202002L
#include <span>
#endif

#include "fastlstm.hpp"

namespace
{

int wrong;
long allocations, held; /* how often memory was taken, and how many pieces of it are not yet given back */

void *take(std::size_t size, std::size_t alignment) noexcept
{
    allocations++;
    held++;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void give(void *memory) noexcept
{
    if (memory)
        held--;
    std::free(memory);
}

} // namespace

void *operator new(std::size_t size)
{
    return take(size, 16);
}

void *operator new(std::size_t size, const std::nothrow_t &) noexcept
{
    return take(size, 16);
}

void *operator new(std::size_t size, std::align_val_t alignment)
{
    return take(size, static_cast<std::size_t>(alignment));
}

void *operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t &) noexcept
{
    return size > std::numeric_limits<std::size_t>::max() / 4 ? nullptr
                                                              : take(size, static_cast<std::size_t>(alignment));
}

void operator delete(void *memory) noexcept
{
    give(memory);
}

void operator delete(void *memory, std::size_t) noexcept
{
    give(memory);
}

void operator delete(void *memory, std::align_val_t) noexcept
{
    give(memory);
}

void operator delete(void *memory, std::size_t, std::align_val_t) noexcept
{
    give(memory);
}

namespace
{

using fastlstm::Linear;
using fastlstm::Model;
using fastlstm::Session;
using fastlstm::Sizes;
using fastlstm::span;
using fastlstm::Stack;
using fastlstm::Stream;
using fastlstm::Weights;

void expect(bool is, const char *what)
{
    if (!is) {
        std::printf("%s\n", what);
        wrong++;
    }
}

void expect_status(fl_status got, fl_status wanted, const char *what)
{
    if (got != wanted) {
        std::printf("%s: status %d, not %d\n", what, static_cast<int>(got), static_cast<int>(wanted));
        wrong++;
    }
}

template <class T> bool equal(const std::vector<T> &a, const std::vector<T> &b)
{
    return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

template <class T> std::vector<T> draw(std::size_t count, double bound = 0.5)
{
    static std::uint64_t state = 1;
    std::vector<T> drawn(count);
    for (T &value : drawn) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        value = static_cast<T>(bound * (static_cast<double>(state >> 11) / static_cast<double>(1ull << 52) - 1));
    }
    return drawn;
}

std::vector<unsigned char> bytes_of(const char *path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/* What fastlstm.h gives for a run of a model. */
template <class X>
std::vector<float> in_c(const std::vector<unsigned char> &file, const std::vector<X> &x, std::int64_t batch)
{
    fl_model *model = nullptr;
    fastlstm::Memory bytes(file.size()), packed(fl_model_bytes(file.data(), file.size(), fl_isa(nullptr)));
    std::memcpy(bytes.data(), file.data(), file.size());
    expect_status(fl_model_load(bytes.data(), bytes.size(), fl_isa(nullptr), packed.data(), packed.size(), &model),
                  FL_OK, "fl_model_load");
    fl_model_info info{};
    info.struct_size = sizeof info;
    expect_status(fl_model_describe(model, &info), FL_OK, "fl_model_describe");
    const std::int64_t steps = static_cast<std::int64_t>(x.size()) / batch / info.input;
    fastlstm::Memory room(fl_session_bytes(model, batch, 1));
    fl_session *session = nullptr;
    expect_status(fl_session_make(room.data(), room.size(), model, batch, 1, &session), FL_OK, "fl_session_make");
    std::vector<float> y(static_cast<std::size_t>(steps * batch * info.output));
    for (std::int64_t t = 0; t < steps; t++)
        expect_status(fl_model_step(session, x.data() + t * batch * info.input, y.data() + t * batch * info.output),
                      FL_OK, "fl_model_step");
    return y;
}

void test_spans()
{
    float array[3] = {1, 2, 3};
    std::array<float, 2> two{4, 5};
    const std::vector<float> constant{6};
    const span<const float> a = array, b = two, c = constant, d{array + 1, 2}, none;
    expect(a.size() == 3 && a.data() == array && *b.begin() == 4 && c.data() == constant.data() && d.end() == a.end(),
           "spans are where the values are");
    expect(none.size() == 0 && !none.data(), "an empty span");
    static_assert(!std::is_convertible_v<const std::vector<float> &, span<float>>, "what is constant stays so");
    static_assert(!std::is_convertible_v<std::vector<double> &, span<const float>>, "no other type");
    static_assert(std::is_convertible_v<span<float>, span<const float>>);
#if __cplusplus >= 202002L
    std::span<float> theirs(two);
    const span<float> ours = theirs;
    expect(ours.data() == two.data() && std::span<float>(ours).size() == 2, "std::span there and back");
#endif
}

/* Whether something can be made of a value. */
template <class Made, class Value>
constexpr auto takes(int) -> decltype(std::declval<Made &>().make(std::declval<Value>()), bool())
{
    return true;
}

template <class, class> constexpr bool takes(...)
{
    return false;
}

void test_model(const char *path)
{
    const std::vector<unsigned char> file = bytes_of(path);
    Model read, copied, borrowed, moved;
    expect_status(read.load_file(path), FL_OK, "load_file");
    expect_status(copied.load(file.data(), file.size(), fl_isa_name(fl_isa(nullptr))), FL_OK, "load");
    fastlstm::Memory bytes(file.size());
    std::memcpy(bytes.data(), file.data(), file.size());
    expect_status(borrowed.borrow(bytes.data(), bytes.size()), FL_OK, "borrow");
    const std::vector<float> x = draw<float>(7 * 3), expected = in_c(file, x, 1);
    for (Model *model : {&read, &copied, &borrowed}) {
        expect(model->info().input == 3 && model->info().output == 2 && model->info().itemsize == 4
                   && model->info().steps == 1 && model->info().sample_rate == 100,
               "info");
        std::vector<float> y(7 * 2);
        Session<float> session;
        expect_status(session.make(*model, 1, 7), FL_OK, "make");
        moved = std::move(*model); /* a session goes on with a model that was moved */
        expect(!*model && !model->get() && moved, "a model is moved");
        expect_status(session.run(x, y), FL_OK, "run");
        expect(equal(y, expected), "a model gives what C gives");
    }

    std::vector<unsigned char> damaged = file;
    damaged[file.size() / 2] ^= 1;
    Model model = std::move(moved);
    expect_status(model.load(damaged.data(), damaged.size()), FL_FILE_CHECKSUM, "a damaged file");
    expect(!model, "a model that is refused is empty");
    expect_status(model.load(file.data(), file.size() - 1), FL_FILE_TRUNCATED, "a file that is cut off");
    expect_status(model.load(file.data(), 0), FL_FILE_TRUNCATED, "a file of no bytes");
    const std::string empty = std::string(path) + ".empty";
    expect(std::ofstream(empty).good(), "an empty file is made");
    expect_status(model.load_file(empty.c_str()), FL_FILE_TRUNCATED, "an empty file");
    expect_status(model.load(nullptr, 100), FL_NULL, "no bytes");
    expect_status(model.load(file.data(), std::numeric_limits<std::size_t>::max() / 2), FL_TOO_LARGE, "no memory");
    expect_status(model.borrow(nullptr, 100), FL_NULL, "no bytes to borrow");
    expect_status(model.load_file("no such file.fl"), FL_FILE_UNREADABLE, "no file");
    expect_status(model.load_file("."), FL_FILE_UNREADABLE, "a folder");
    expect_status(model.load(file.data(), file.size(), "abacus"), FL_BAD_ISA, "no such instruction set");
    Session<float> session;
    expect_status(session.make(model), FL_NULL, "a session of an empty model");
    static_assert(!std::is_constructible_v<Session<float>, Model>, "a session needs a model that stays");
    static_assert(!takes<Session<float>, Model>(0) && takes<Session<float>, const Model &>(0));
    static_assert(!takes<Stream<float>, Stack<float>>(0) && takes<Stream<float>, const Stack<float> &>(0));
#if FASTLSTM_EXCEPTIONS
    expect(Model::from_file(path) && Model::from_bytes(file.data(), file.size())
               && Model::from_borrowed(bytes.data(), bytes.size()),
           "from");
    try {
        Model::from_bytes(damaged.data(), damaged.size());
        expect(false, "a damaged file throws");
    } catch (const fastlstm::Error &error) {
        expect(error.status() == FL_FILE_CHECKSUM && !std::strcmp(error.what(), fl_error_string(FL_FILE_CHECKSUM)),
               "what is thrown says why");
    }
    try {
        Model::from_file("no such file.fl");
        expect(false, "a file that is not there throws");
    } catch (const std::runtime_error &error) {
        expect(!std::strcmp(error.what(), "no such file.fl: this file cannot be read"), error.what());
    }
    try {
        const Model floats = Model::from_file(path);
        Session<double> other(floats);
        expect(false, "another type throws");
    } catch (const fastlstm::Error &error) {
        expect(error.status() == FL_BAD_ITEMSIZE, "another type");
    }
#endif
}

void test_session(const char *path)
{
    Model model;
    expect_status(model.load_file(path), FL_OK, "load_file");
    const std::size_t steps = 9, batch = 2;
    const std::vector<float> x = draw<float>(steps * batch * 3);
    const std::vector<float> expected = in_c(bytes_of(path), x, batch);
    std::vector<float> y(steps * batch * 2), rest;
    Session<float> session, other, empty;
    Session<double> wide;
    expect_status(session.make(model, batch, 4), FL_OK, "make");
    expect_status(other.make(model, batch, steps), FL_OK, "make");
    expect_status(wide.make(model), FL_BAD_ITEMSIZE, "a session of another type");
    expect_status(empty.make(model, 0), FL_BAD_CALL, "a session of nobody");
    std::vector<float> state(session.state_size()), first(session.state_size()), last(session.state_size());
    expect(session && session.batch() == 2 && !wide && !empty && !empty.state_size() && state.size(), "sessions");

    const long before = allocations;
    const auto part = [&](std::size_t from, std::size_t count) {
        return session.run({x.data() + from * batch * 3, count * batch * 3},
                           {y.data() + from * batch * 2, count * batch * 2});
    };
    expect_status(session.get_state(first), FL_OK, "get_state");
    expect_status(part(0, 4), FL_OK, "run");
    expect_status(session.step({x.data() + 4 * batch * 3, batch * 3}, {y.data() + 4 * batch * 2, batch * 2}), FL_OK,
                  "step");
    expect_status(session.get_state(state), FL_OK, "get_state");
    expect_status(part(5, 4), FL_OK, "run");
    expect_status(part(9, 0), FL_OK, "a run of no step");
    expect(equal(y, expected), "runs and steps give what C gives");

    std::fill(y.begin() + 5 * batch * 2, y.end(), -1.0f);
    expect_status(session.set_state(state), FL_OK, "set_state");
    expect_status(part(5, 4), FL_OK, "run");
    expect(equal(y, expected), "a state is taken up");

    std::fill(y.begin(), y.end(), -1.0f);
    expect_status(session.reset(), FL_OK, "reset");
    expect_status(part(0, 4), FL_OK, "run");
    const std::uint8_t second[] = {0, 1};
    expect_status(session.reset(second), FL_OK, "reset of one");
    expect_status(session.get_state(last), FL_OK, "get_state");
    expect(!equal(first, last), "the other sequence goes on");

    expect_status(session.step({x.data(), batch * 3 - 1}, {y.data(), batch * 2}), FL_BAD_CALL, "too few values");
    expect_status(session.step({x.data(), batch * 3}, {y.data(), batch * 2 + 1}), FL_BAD_CALL, "too much room");
    expect_status(session.run({x.data(), batch * 3 + 1}, {y.data(), batch * 2}), FL_BAD_CALL, "no whole step");
    expect_status(session.run({x.data(), batch * 3}, {y.data(), batch}), FL_BAD_CALL, "too little room");
    expect_status(part(0, 5), FL_BAD_CALL, "more than the most steps");
    expect_status(session.reset({second, 1}), FL_BAD_CALL, "a short mask");
    expect_status(session.get_state({state.data(), 1}), FL_BAD_CALL, "a short state");
    expect_status(session.set_state({state.data(), 1}), FL_BAD_CALL, "a short state");
    const std::int64_t indices[] = {0, 1};
    expect_status(session.step(indices, {y.data(), batch * 2}), FL_BAD_CALL, "indices for a model of values");
    expect_status(empty.step({x.data(), 3}, {y.data(), 2}), FL_NULL, "a step of nothing");
    expect_status(empty.run({x.data(), 3}, {y.data(), 2}), FL_NULL, "a run of nothing");
    expect_status(empty.get_state(state), FL_NULL, "the state of nothing");
    expect_status(empty.set_state(state), FL_NULL, "the state of nothing");
    expect_status(empty.reset(), FL_NULL, "a reset of nothing");
    expect_status(empty.reset(second), FL_NULL, "a reset of nothing");
    expect(allocations == before, "a session allocates nothing while it runs");

    std::fill(y.begin(), y.end(), -1.0f);
    Session<float> moved = std::move(other); /* in the middle of its life, and into one that has memory */
    expect(!other && moved && !other.get(), "a session is moved");
    session = std::move(moved);
    expect_status(session.run(x, y), FL_OK, "run");
    expect(equal(y, expected) && !moved, "a moved session goes on");
    Session<float> &itself = session;
    session = std::move(itself);
    expect(static_cast<bool>(session), "a session is moved to itself");
}

void test_indices(const char *path)
{
    Model model;
    expect_status(model.load_file(path), FL_OK, "load_file");
    expect(model.info().indices == 1, "the model takes indices");
    const std::vector<std::int64_t> x{0, 4, 2, 2, 1};
    const std::size_t width = static_cast<std::size_t>(model.info().output);
    std::vector<float> y(5 * width), stepped(5 * width);
    Session<float> session;
    expect_status(session.make(model, 1, 5), FL_OK, "make");
    const long before = allocations;
    expect_status(session.run(x, y), FL_OK, "run");
    expect_status(session.reset(), FL_OK, "reset");
    for (std::size_t t = 0; t < 5; t++)
        expect_status(session.step({x.data() + t, 1}, {stepped.data() + t * width, width}), FL_OK, "step");
    const std::int64_t outside[] = {5};
    expect_status(session.step(outside, {y.data(), width}), FL_BAD_INDEX, "no such row");
    const float values[] = {1};
    expect_status(session.step(values, {y.data(), width}), FL_BAD_CALL, "values for a model of indices");
    expect(allocations == before, "indices allocate nothing");
    expect(equal(stepped, in_c(bytes_of(path), x, 1)) && equal(y, stepped), "indices give what C gives");
}

/* A stack of two layers with a projection, and a linear layer, against the functions of fastlstm.h. */
template <class T> void test_arrays()
{
    const std::int64_t I = 3, H = 5, P = 4, layers = 2, steps = 6, batch = 2;
    const auto size = [](std::int64_t number) { return static_cast<std::size_t>(number); };
    const auto w_ih = draw<T>(size(4 * H * I)), w_above = draw<T>(size(4 * H * P)), w_hh = draw<T>(size(4 * H * P)),
               b = draw<T>(size(4 * H)), w_hr = draw<T>(size(P * H)), x = draw<T>(size(steps * batch * I));
    std::vector<Weights<T>> weights(2);
    weights[0].w_ih = w_ih;
    weights[1].w_ih = w_above;
    for (Weights<T> &w : weights) {
        w.w_hh = w_hh;
        w.w_hr = w_hr;
    }
    weights[0].b = b; /* the second has none: zeros */
    Sizes sizes{I, H, P};
    sizes.layers = 2;

    fl_arrays arrays[2] = {};
    for (std::size_t n = 0; n < 2; n++) {
        arrays[n].struct_size = sizeof *arrays;
        arrays[n].w_ih = const_cast<T *>(weights[n].w_ih.data());
        arrays[n].w_hh = const_cast<T *>(w_hh.data());
        arrays[n].w_hr = const_cast<T *>(w_hr.data());
    }
    arrays[0].b = const_cast<T *>(b.data());
    fl_shape shape{};
    shape.struct_size = sizeof shape;
    shape.itemsize = sizeof(T);
    shape.layers = 2;
    shape.directions = 1;
    shape.input = I;
    shape.hidden = H;
    shape.output = P;
    const int isa = fl_isa(nullptr);
    fastlstm::Memory packed(fl_stack_bytes(&shape, isa));
    fl_stack *in_c = nullptr;
    expect_status(fl_pack(packed.data(), packed.size(), &shape, isa, arrays, &in_c), FL_OK, "fl_pack");
    fastlstm::Memory room(fl_stream_bytes(in_c, batch));
    fl_stream *stream_in_c = nullptr;
    expect_status(fl_make_stream(room.data(), room.size(), in_c, batch, &stream_in_c), FL_OK, "fl_make_stream");
    std::vector<T> expected(size(steps * batch * P)), h_in_c(size(layers * batch * P)),
        c_in_c(size(layers * batch * H));
    for (std::int64_t t = 0; t < steps; t++)
        expect_status(fl_step(stream_in_c, x.data() + t * batch * I, expected.data() + t * batch * P), FL_OK,
                      "fl_step");
    expect_status(fl_get_states(stream_in_c, h_in_c.data(), c_in_c.data()), FL_OK, "fl_get_states");

    Stack<T> made, stack;
    expect_status(made.pack(sizes, weights), FL_OK, "pack");
    stack = std::move(made);
    expect(!made && !made.get() && stack && stack.sizes().output == P, "a stack is moved");
    std::vector<T> y(expected.size()), h(h_in_c.size()), c(c_in_c.size());
    fastlstm::Memory scratch(stack.scratch_bytes(steps, batch));
    Stream<T> stream, empty;
    expect_status(stream.make(stack, batch), FL_OK, "make");
    expect_status(empty.make(made), FL_NULL, "a stream of nothing");

    const long before = allocations;
    expect_status(stack.run(steps, batch, x, y, h, c, scratch), FL_OK, "run of a stack");
    expect(equal(y, expected) && equal(h, h_in_c) && equal(c, c_in_c), "a stack gives what C gives");
    std::fill(y.begin(), y.end(), T(-1));
    const std::size_t in = size(batch * I), out = size(batch * P);
    expect_status(stream.step({x.data(), in}, {y.data(), out}), FL_OK, "step of a stream");
    expect_status(stream.get_state(h, c), FL_OK, "get_state");
    expect_status(stream.run({x.data() + in, x.size() - in}, {y.data() + out, y.size() - out}), FL_OK,
                  "run of a stream");
    expect(equal(y, expected), "a stream gives what C gives");
    std::fill(y.begin() + static_cast<std::ptrdiff_t>(out), y.end(), T(-1));
    expect_status(stream.set_state(h, c), FL_OK, "set_state");
    expect_status(stream.run({x.data() + in, x.size() - in}, {y.data() + out, y.size() - out}), FL_OK,
                  "run of a stream");
    expect(equal(y, expected), "a stream's state is taken up");
    expect_status(stream.reset(), FL_OK, "reset");
    expect_status(stream.run(x, y), FL_OK, "run of a stream");
    expect(equal(y, expected), "a stream begins anew");
    expect_status(stream.step({x.data(), in - 1}, {y.data(), out}), FL_BAD_CALL, "too few values");
    expect_status(stream.run({x.data(), in}, {y.data(), out - 1}), FL_BAD_CALL, "too little room");
    expect_status(stream.get_state(h, {c.data(), 1}), FL_BAD_CALL, "a short state");
    expect_status(stream.set_state({h.data(), 1}, c), FL_BAD_CALL, "a short state");
    expect_status(empty.step(x, y), FL_NULL, "a step of nothing");
    expect_status(empty.run(x, y), FL_NULL, "a run of nothing");
    expect_status(empty.reset(), FL_NULL, "a reset of nothing");
    expect_status(empty.get_state(h, c), FL_NULL, "the state of nothing");
    expect_status(stack.run(steps, batch, x, y, h, {c.data(), 1}, scratch), FL_BAD_CALL, "a short state of a run");
    expect_status(stack.run(steps, batch + 1, x, y, h, c, scratch), FL_BAD_CALL, "a larger batch");
    expect_status(stack.run(0, batch, x, y, h, c, scratch), FL_BAD_CALL, "no steps");
    expect(allocations == before, "stacks and streams allocate nothing while they run");
    expect_status(stack.run(steps, batch, x, y, h, c, fastlstm::Memory(64)), FL_TOO_SMALL, "too little scratch memory");
    expect_status(made.run(steps, batch, x, y, h, c, scratch), FL_NULL, "a run of an empty stack");
    expect(made.scratch_bytes(steps, batch) == 0, "an empty stack needs no memory");

    expect_status(made.pack(sizes, {weights.data(), 1}), FL_BAD_ARRAYS, "a layer is missing");
    std::vector<Weights<T>> others = weights;
    others[1].w_ih = w_ih;
    expect_status(made.pack(sizes, others), FL_BAD_ARRAYS, "an array of another size");
    others = weights;
    others[0].w_hr = {};
    expect_status(made.pack(sizes, others), FL_BAD_ARRAYS, "an array is missing");
    others = weights;
    others[0].w_ci = {b.data(), size(H)};
    expect_status(made.pack(sizes, others), FL_BAD_ARRAYS, "an array too many");
    Sizes bad = sizes;
    bad.hidden = -1;
    expect_status(made.pack(bad, weights), FL_BAD_SHAPE, "fewer than no units");
    bad.hidden = std::int64_t{1} << 40;
    expect_status(made.pack(bad, weights), FL_TOO_LARGE, "too many units");
    expect_status(made.pack(sizes, weights, nullptr, "abacus"), FL_BAD_ISA, "no such instruction set");
    expect(!made, "a stack that is refused is empty");

    const std::int64_t outputs = 7;
    const auto w = draw<T>(size(outputs * I)), bias = draw<T>(size(outputs));
    for (const bool has : {true, false}) {
        const span<const T> added = has ? span<const T>(bias) : span<const T>();
        fastlstm::Memory memory(fl_linear_bytes(sizeof(T), I, outputs, isa));
        fl_linear *plain = nullptr;
        expect_status(
            fl_pack_linear(memory.data(), memory.size(), sizeof(T), I, outputs, isa, w.data(), added.data(), &plain),
            FL_OK, "fl_pack_linear");
        std::vector<T> product(size(steps * batch * outputs)), ours(product.size());
        fl_linear_call call{};
        call.struct_size = sizeof call;
        call.x = x.data();
        call.y = product.data();
        call.x_stride = I * static_cast<std::int64_t>(sizeof(T));
        call.y_stride = outputs * static_cast<std::int64_t>(sizeof(T));
        call.rows = steps * batch;
        call.threads = 1;
        expect_status(fl_run_linear(plain, &call), FL_OK, "fl_run_linear");
        Linear<T> first, linear, none;
        expect_status(first.pack(I, outputs, w, added), FL_OK, "pack of a linear");
        linear = std::move(first);
        expect(!first && linear, "a linear is moved");
        const long now = allocations;
        expect_status(linear.run(x, ours), FL_OK, "run of a linear");
        expect(allocations == now && equal(ours, product), "a linear gives what C gives");
        expect_status(linear.run({x.data(), 4}, ours), FL_BAD_CALL, "no whole row");
        expect_status(none.run(x, ours), FL_NULL, "a run of no linear");
        expect_status(none.pack(I, outputs, {w.data(), 3}), FL_BAD_ARRAYS, "weights of another size");
        expect_status(none.pack(I, outputs, w, {bias.data(), 1}), FL_BAD_ARRAYS, "a bias of another size");
        expect_status(none.pack(0, outputs, w), FL_BAD_SHAPE, "no inputs");
    }
#if FASTLSTM_EXCEPTIONS
    expect(Stack<T>(sizes, weights) && Stream<T>(stack) && Linear<T>(I, outputs, w, bias), "constructors");
    int thrown = 0;
    try {
        Stack<T>{bad, weights};
    } catch (const fastlstm::Error &error) {
        thrown += error.status() == FL_TOO_LARGE;
    }
    try {
        Stream<T>{made};
    } catch (const fastlstm::Error &error) {
        thrown += error.status() == FL_NULL;
    }
    try {
        Linear<T>(I, outputs + 1, w);
    } catch (const fastlstm::Error &error) {
        thrown += error.status() == FL_BAD_ARRAYS;
    }
    expect(thrown == 3, "constructors throw");
#endif
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 3)
        return 3;
    const long before = held;
    test_spans();
    test_model(argv[1]);
    test_session(argv[1]);
    test_indices(argv[2]);
    test_arrays<float>();
    test_arrays<double>();
    expect(held == before, "all memory is given back");
    return wrong > 0;
}
