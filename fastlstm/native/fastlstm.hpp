/* fastlstm for C++17 and later: classes over fastlstm.h, in this header alone.

    fastlstm::Model model = fastlstm::Model::from_file("m.fl");
    fastlstm::Session<float> session(model);
    session.step(x, y);

`Model` and `Session` run a whole model that fastlstm.save has written. `Stack`, `Stream` and `Linear` are made of plain
arrays of weights. Each object owns its memory, can be moved and not copied, and is empty until it is made. A moved object
stays where its memory is: a session goes on with a model that was moved. It does need that the model lives.

Errors come in one of two ways. Every object can be made by a member function that throws nothing and returns an
`fl_status` (`load`, `borrow`, `make`, `pack`); if it refuses, the object is empty. Where the compiler has exceptions, a
constructor or a function `from_...` does the same and throws `Error`; with -fno-exceptions these are not declared.

All members that run something, and those that read, set or reset states, return an `fl_status`, never throw, and allocate
nothing: they are for real-time threads. They check that the arrays have the sizes of the model: FL_BAD_CALL if not, and
FL_NULL if the object is empty. `check` turns a status into an exception where that is wanted.

Arrays are passed as `span`, which everything becomes that has data() and size(): std::vector, std::array, std::span; arrays
of C too, and a pointer with a number. */

#ifndef FASTLSTM_HPP
#define FASTLSTM_HPP

/* Visual Studio tells its language by a macro of its own. */
#if defined(_MSVC_LANG) ? _MSVC_LANG < 201703L : __cplusplus < 201703L
#error "fastlstm.hpp needs C++17 or later: -std=c++17 or /std:c++17"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "fastlstm.h"

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define FASTLSTM_EXCEPTIONS 1
#else
#define FASTLSTM_EXCEPTIONS 0
#endif

namespace fastlstm
{

/* Values that lie side by side and belong to somebody else. It is std::span's simplest part, and the same type in C++17
and in C++20, so that parts of a program that are compiled for either can be linked. */
template <class T> class span
{
  public:
    constexpr span() noexcept = default;

    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size)
    {
    }

    template <std::size_t N> constexpr span(T (&array)[N]) noexcept : data_(array), size_(N)
    {
    }

    /* Of anything whose data() is a pointer to T, or to what T is const of. */
    template <class Values, class Pointer = decltype(std::declval<Values &>().data()),
              class = std::enable_if_t<std::is_convertible_v<std::remove_pointer_t<Pointer> (*)[], T (*)[]>>>
    constexpr span(Values &&values) noexcept : data_(values.data()), size_(values.size())
    {
    }

    constexpr T *data() const noexcept
    {
        return data_;
    }

    constexpr std::size_t size() const noexcept
    {
        return size_;
    }

    constexpr T *begin() const noexcept
    {
        return data_;
    }

    constexpr T *end() const noexcept
    {
        return data_ + size_;
    }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/* What is thrown: a status, and its sentence as what(). */
class Error : public std::runtime_error
{
  public:
    explicit Error(fl_status status) : std::runtime_error(fl_error_string(status)), status_(status)
    {
    }

    Error(fl_status status, const std::string &sentence) : std::runtime_error(sentence), status_(status)
    {
    }

    fl_status status() const noexcept
    {
        return status_;
    }

  private:
    fl_status status_;
};

#if FASTLSTM_EXCEPTIONS
/* Throw Error unless the status is FL_OK. */
inline void check(fl_status status)
{
    if (status != FL_OK)
        throw Error(status);
}
#endif

/* Memory of the alignment that the library wants, with any content. It is empty if there is not so much. */
class Memory
{
  public:
    Memory() noexcept = default;

    explicit Memory(std::size_t size) noexcept
        : data_(size ? ::operator new(size, std::align_val_t{64}, std::nothrow) : nullptr), size_(data_ ? size : 0)
    {
    }

    Memory(Memory &&other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0))
    {
    }

    Memory &operator=(Memory &&other) noexcept
    {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    ~Memory()
    {
        ::operator delete(data_, std::align_val_t{64});
    }

    void *data() const noexcept
    {
        return data_;
    }

    std::size_t size() const noexcept
    {
        return size_;
    }

  private:
    void *data_ = nullptr;
    std::size_t size_ = 0;
};

namespace detail
{

/* A pointer into memory that its owner moves along with it. */
template <class T> class Handle
{
  public:
    Handle() noexcept = default;

    Handle(Handle &&other) noexcept : pointer_(std::exchange(other.pointer_, nullptr))
    {
    }

    Handle &operator=(Handle &&other) noexcept
    {
        pointer_ = std::exchange(other.pointer_, nullptr);
        return *this;
    }

    T *pointer_ = nullptr;
};

/* The memory that a function said to need, `size`, unless it was 0, which is how such functions refuse. Then the function
that takes the memory is asked all the same, to say why; it needs no memory for that. FL_TOO_LARGE: there is not so
much. */
inline fl_status allocate(std::size_t size, Memory &memory) noexcept
{
    memory = Memory(size);
    return size && !memory.data() ? FL_TOO_LARGE : FL_OK;
}

inline std::size_t product(std::int64_t a, std::int64_t b) noexcept
{
    return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

template <class T> inline std::int64_t bytes(std::int64_t values) noexcept
{
    return values * static_cast<std::int64_t>(sizeof(T));
}

} // namespace detail

/* A whole model. Any number of sessions, in any threads, may use one. `isa` is the name of an instruction set, or NULL for
the best that this machine has. */
class Model
{
  public:
    Model() noexcept = default;
    Model(Model &&) noexcept = default;
    Model &operator=(Model &&) noexcept = default;

#if FASTLSTM_EXCEPTIONS
    /* As `load`, `borrow` and `load_file`. */
    static Model from_bytes(const void *bytes, std::size_t number, const char *isa = nullptr)
    {
        Model model;
        check(model.load(bytes, number, isa));
        return model;
    }

    static Model from_borrowed(const void *bytes, std::size_t number, const char *isa = nullptr)
    {
        Model model;
        check(model.borrow(bytes, number, isa));
        return model;
    }

    static Model from_file(const std::string &path, const char *isa = nullptr)
    {
        Model model;
        if (const fl_status status = model.load_file(path.c_str(), isa))
            throw Error(status, path + ": " + fl_error_string(status));
        return model;
    }
#endif

    /* Make the model of a file's bytes, of which it keeps a copy. */
    [[nodiscard]] fl_status load(const void *bytes, std::size_t number, const char *isa = nullptr) noexcept
    {
        *this = Model();
        if (!bytes)
            return FL_NULL;
        Memory copy(number);
        if (number && !copy.data())
            return FL_TOO_LARGE;
        if (number)
            std::memcpy(copy.data(), bytes, number);
        return keep(std::move(copy), isa);
    }

    /* The same of bytes that stay where they are for as long as the model is used, and begin at a multiple of 8: a file
    that is mapped into memory, or an array that `fastlstm export` has written. */
    [[nodiscard]] fl_status borrow(const void *bytes, std::size_t number, const char *isa = nullptr) noexcept
    {
        *this = Model();
        const int set = fl_isa(isa);
        Memory memory;
        if (const fl_status status = detail::allocate(fl_model_bytes(bytes, number, set), memory))
            return status;
        fl_model *made = nullptr;
        fl_model_info info{};
        info.struct_size = sizeof info;
        fl_status status = fl_model_load(bytes, number, set, memory.data(), memory.size(), &made);
        if (status == FL_OK)
            status = fl_model_describe(made, &info);
        if (status == FL_OK) {
            memory_ = std::move(memory);
            model_.pointer_ = made;
            info_ = info;
        }
        return status;
    }

    /* The same of a file, which is read; FL_FILE_UNREADABLE if it cannot be. Of all functions here that return a status,
    this alone uses what may throw: std::ifstream, std::bad_alloc. */
    [[nodiscard]] fl_status load_file(const char *path, const char *isa = nullptr)
    {
        *this = Model();
        Memory file;
        return read(path, file) ? keep(std::move(file), isa) : FL_FILE_UNREADABLE;
    }

    /* What the model is, unless it is empty. */
    const fl_model_info &info() const noexcept
    {
        return info_;
    }

    /* For the functions of fastlstm.h; NULL if it is empty. */
    const fl_model *get() const noexcept
    {
        return model_.pointer_;
    }

    explicit operator bool() const noexcept
    {
        return model_.pointer_;
    }

  private:
    fl_status keep(Memory file, const char *isa) noexcept
    {
        if (!file.size()) /* of no bytes there is no address */
            return FL_FILE_TRUNCATED;
        const fl_status status = borrow(file.data(), file.size(), isa);
        if (status == FL_OK)
            file_ = std::move(file);
        return status;
    }

    static bool read(const char *path, Memory &bytes)
    {
        std::ifstream file(path, std::ios::binary | std::ios::ate);
        const std::streamoff end = file ? static_cast<std::streamoff>(file.tellg()) : -1;
        if (end <= 0)
            return end == 0;
        bytes = Memory(static_cast<std::size_t>(end));
        file.seekg(0);
        return bytes.data() && file.read(static_cast<char *>(bytes.data()), end);
    }

    Memory file_, memory_; /* the bytes, unless they are borrowed; the packed weights */
    detail::Handle<fl_model> model_;
    fl_model_info info_{};
};

/* Sequences that run through a model step by step, with their states. T is the type of the model's values, float or
double. It needs the model for as long as it is used; one thread at a time uses it. */
template <class T> class Session
{
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);

  public:
    Session() noexcept = default;
    Session(Session &&) noexcept = default;
    Session &operator=(Session &&) noexcept = default;

#if FASTLSTM_EXCEPTIONS
    explicit Session(const Model &model, std::int64_t batch = 1, std::int64_t most_steps = 1)
    {
        check(make(model, batch, most_steps));
    }

    /* A model that ends at once cannot have a session. */
    explicit Session(const Model &&, std::int64_t = 1, std::int64_t = 1) = delete;
#endif
    fl_status make(const Model &&, std::int64_t = 1, std::int64_t = 1) = delete;

    /* Make a session of so many sequences, whose runs are of at most so many steps. FL_BAD_ITEMSIZE: the model's values
    are not of type T. */
    [[nodiscard]] fl_status make(const Model &model, std::int64_t batch = 1, std::int64_t most_steps = 1) noexcept
    {
        *this = Session();
        const fl_model_info &info = model.info();
        if (!model)
            return FL_NULL;
        if (info.itemsize != sizeof(T))
            return FL_BAD_ITEMSIZE;
        Memory memory;
        if (const fl_status status = detail::allocate(fl_session_bytes(model.get(), batch, most_steps), memory))
            return status;
        fl_session *made = nullptr;
        const fl_status status = fl_session_make(memory.data(), memory.size(), model.get(), batch, most_steps, &made);
        if (status == FL_OK) {
            memory_ = std::move(memory);
            session_.pointer_ = made;
            info_ = info;
            batch_ = batch;
        }
        return status;
    }

    /* Advance all sequences by one step: x is (batch, input) and y (batch, output). */
    [[nodiscard]] fl_status step(span<const T> x, span<T> y) noexcept
    {
        return step_of(x, y);
    }

    /* The same for a model whose inputs are indices: x is (batch,). */
    [[nodiscard]] fl_status step(span<const std::int64_t> x, span<T> y) noexcept
    {
        return step_of(x, y);
    }

    /* Advance all sequences by as many steps as x (steps, batch, input) has, at most the session's most_steps; y is (steps,
    batch, output), or (batch, output) if the model gives its last step only. A real-time thread leaves `threads` at 1. */
    [[nodiscard]] fl_status run(span<const T> x, span<T> y, std::int32_t threads = 1) noexcept
    {
        return run_of(x, y, threads);
    }

    /* The same for indices: x is (steps, batch). */
    [[nodiscard]] fl_status run(span<const std::int64_t> x, span<T> y, std::int32_t threads = 1) noexcept
    {
        return run_of(x, y, threads);
    }

    /* How many values the states of all sequences are. */
    std::size_t state_size() const noexcept
    {
        return *this ? fl_session_state_bytes(session_.pointer_) / sizeof(T) : 0;
    }

    /* Write the states into `state`, of state_size(), or take them from it. A session of as many sequences takes up what
    another one wrote. */
    [[nodiscard]] fl_status get_state(span<T> state) const noexcept
    {
        return fits(state.size(), state_size())
            ? fl_session_get_state(session_.pointer_, state.data(), state.size() * sizeof(T))
            : refusal();
    }

    [[nodiscard]] fl_status set_state(span<const T> state) noexcept
    {
        return fits(state.size(), state_size())
            ? fl_session_set_state(session_.pointer_, state.data(), state.size() * sizeof(T))
            : refusal();
    }

    /* Begin anew: all sequences, or those whose value in the mask (batch,) is not 0. */
    [[nodiscard]] fl_status reset() noexcept
    {
        return *this ? fl_session_reset(session_.pointer_, nullptr) : FL_NULL;
    }

    [[nodiscard]] fl_status reset(span<const std::uint8_t> mask) noexcept
    {
        return fits(mask.size(), static_cast<std::size_t>(batch_)) ? fl_session_reset(session_.pointer_, mask.data())
                                                                   : refusal();
    }

    std::int64_t batch() const noexcept
    {
        return batch_;
    }

    /* For the functions of fastlstm.h; NULL if it is empty. */
    fl_session *get() const noexcept
    {
        return session_.pointer_;
    }

    explicit operator bool() const noexcept
    {
        return session_.pointer_;
    }

  private:
    bool fits(std::size_t given, std::size_t wanted) const noexcept
    {
        return *this && given == wanted;
    }

    fl_status refusal() const noexcept
    {
        return *this ? FL_BAD_CALL : FL_NULL;
    }

    /* Inputs are indices or values, as the model says. */
    template <class X> bool takes() const noexcept
    {
        return (info_.indices != 0) == std::is_integral_v<X>;
    }

    template <class X> fl_status step_of(span<const X> x, span<T> y) noexcept
    {
        if (!takes<X>() || !fits(x.size(), detail::product(batch_, info_.input))
            || y.size() != detail::product(batch_, info_.output))
            return refusal();
        return fl_model_step(session_.pointer_, x.data(), y.data());
    }

    template <class X> fl_status run_of(span<const X> x, span<T> y, std::int32_t threads) noexcept
    {
        if (!*this)
            return FL_NULL;
        const std::size_t row = detail::product(batch_, info_.input), steps = x.size() / row;
        const std::size_t filled = info_.last ? (steps ? 1 : 0) : steps;
        if (!takes<X>() || x.size() != steps * row || y.size() != filled * detail::product(batch_, info_.output))
            return FL_BAD_CALL;
        fl_model_call call{};
        call.struct_size = sizeof call;
        call.steps = static_cast<std::int64_t>(steps);
        call.x = x.data();
        call.y = y.data();
        call.x_stride = detail::bytes<X>(info_.input);
        call.y_stride = detail::bytes<T>(info_.output);
        call.threads = threads;
        return fl_model_run(session_.pointer_, &call);
    }

    Memory memory_;
    detail::Handle<fl_session> session_;
    fl_model_info info_{};
    std::int64_t batch_ = 0;
};

/* The arrays of one layer in one direction, as those of `fl_arrays`; what the cell has no use for is left empty. */
template <class T> struct Weights {
    span<const T> w_ih, w_hh, b, w_hr, w_ci, w_cf, w_co, ln, ln_ih, ln_hh, ln_c, b_c;
};

/* The sizes of a stack, as those of `fl_shape`. `output` is that of the projection, or 0 if there is none. */
struct Sizes {
    std::int64_t input, hidden, output = 0;
    std::int32_t layers = 1, directions = 1;
};

/* A stack of LSTM layers of plain arrays. Any number of threads may use one at once. */
template <class T> class Stack
{
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);

  public:
    Stack() noexcept = default;
    Stack(Stack &&) noexcept = default;
    Stack &operator=(Stack &&) noexcept = default;

#if FASTLSTM_EXCEPTIONS
    Stack(const Sizes &sizes, span<const Weights<T>> weights, const fl_options *options = nullptr,
          const char *isa = nullptr)
    {
        check(pack(sizes, weights, options, isa));
    }
#endif

    /* Pack the weights of each layer and in it of each direction, which are not needed afterwards. FL_BAD_ARRAYS: their
    number, or the size of one, is not that of the stack. */
    [[nodiscard]] fl_status pack(const Sizes &sizes, span<const Weights<T>> weights,
                                 const fl_options *options = nullptr, const char *isa = nullptr) noexcept
    {
        *this = Stack();
        Sizes full = sizes;
        full.output = sizes.output ? sizes.output : sizes.hidden;
        for (const std::int64_t size : {full.input, full.hidden, full.output})
            if (size < 1 || size > most)
                return size < 1 ? FL_BAD_SHAPE : FL_TOO_LARGE;
        if (full.layers < 1 || full.directions < 1 || full.directions > 2)
            return FL_BAD_SHAPE;
        if (weights.size() != detail::product(full.layers, full.directions))
            return FL_BAD_ARRAYS;
        const std::unique_ptr<fl_arrays[]> arrays(new (std::nothrow) fl_arrays[weights.size()]());
        if (!arrays)
            return FL_TOO_LARGE;
        for (std::size_t n = 0; n < weights.size(); n++) {
            const bool first = n < static_cast<std::size_t>(full.directions);
            if (!take(weights.data()[n], full, first ? full.input : full.directions * full.output, arrays[n]))
                return FL_BAD_ARRAYS;
        }

        fl_shape shape{};
        shape.struct_size = sizeof shape;
        shape.itemsize = sizeof(T);
        shape.layers = full.layers;
        shape.directions = full.directions;
        shape.input = full.input;
        shape.hidden = full.hidden;
        shape.output = full.output;
        shape.options = options;
        const int set = fl_isa(isa);
        Memory memory;
        if (const fl_status status = detail::allocate(fl_stack_bytes(&shape, set), memory))
            return status;
        fl_stack *made = nullptr;
        const fl_status status = fl_pack(memory.data(), memory.size(), &shape, set, arrays.get(), &made);
        if (status == FL_OK) {
            memory_ = std::move(memory);
            stack_.pointer_ = made;
            sizes_ = full;
        }
        return status;
    }

    /* How many bytes of scratch memory `run` needs; 0 if it would refuse. */
    std::size_t scratch_bytes(std::int64_t steps, std::int64_t batch, std::int32_t threads = 1) const noexcept
    {
        if (!*this)
            return 0;
        const fl_call call = call_of(steps, batch, threads);
        return fl_scratch_bytes(stack_.pointer_, &call);
    }

    /* Run whole sequences of equal length: x is (steps, batch, input), y (steps, batch, directions * output), h (layers *
    directions, batch, output), and c the same of hidden; h and c become the states after the run. */
    [[nodiscard]] fl_status run(std::int64_t steps, std::int64_t batch, span<const T> x, span<T> y, span<T> h,
                                span<T> c, const Memory &scratch, std::int32_t threads = 1) const noexcept
    {
        if (!*this)
            return FL_NULL;
        if (steps < 1 || batch < 1 || steps > most || batch > most)
            return FL_BAD_CALL;
        const std::size_t rows = detail::product(steps, batch);
        const std::int64_t states = std::int64_t{sizes_.layers} * sizes_.directions;
        const std::int64_t width = sizes_.directions * sizes_.output;
        if (!is(x.size(), rows, sizes_.input) || !is(y.size(), rows, width)
            || !is(h.size(), detail::product(states, batch), sizes_.output)
            || !is(c.size(), detail::product(states, batch), sizes_.hidden))
            return FL_BAD_CALL;
        fl_call call = call_of(steps, batch, threads);
        call.x = x.data();
        call.x_stride = detail::bytes<T>(sizes_.input);
        call.y = y.data();
        call.y_stride = detail::bytes<T>(width);
        call.h = h.data();
        call.c = c.data();
        call.scratch = scratch.data();
        call.scratch_size = scratch.size();
        return fl_run(stack_.pointer_, &call);
    }

    /* As they were given, but with an output, unless it is empty. */
    const Sizes &sizes() const noexcept
    {
        return sizes_;
    }

    /* For the functions of fastlstm.h; NULL if it is empty. */
    const fl_stack *get() const noexcept
    {
        return stack_.pointer_;
    }

    explicit operator bool() const noexcept
    {
        return stack_.pointer_;
    }

  private:
    static constexpr std::int64_t most = std::int64_t{1} << 30; /* products of two with 8 fit 64 bits */

    /* Whether `given` is rows * width, if that fits. */
    static bool is(std::size_t given, std::size_t rows, std::int64_t width) noexcept
    {
        const std::size_t columns = static_cast<std::size_t>(width);
        return given % columns == 0 && given / columns == rows;
    }

    fl_call call_of(std::int64_t steps, std::int64_t batch, std::int32_t threads) const noexcept
    {
        fl_call call{};
        call.struct_size = sizeof call;
        call.steps = steps;
        call.batch = batch;
        call.threads = threads;
        return call;
    }

    /* Put the pointers of one layer and direction into `arrays`, unless a size is wrong. Which of those that may be missing
    are needed, the library says. */
    static bool take(const Weights<T> &w, const Sizes &sizes, std::int64_t input, fl_arrays &arrays) noexcept
    {
        const std::int64_t H = sizes.hidden, P = sizes.output;
        struct Part {
            span<const T> values;
            std::int64_t rows, columns;
            void *&pointer;
        };
        const Part parts[] = {
            {w.w_ih, 4 * H, input, arrays.w_ih}, {w.w_hh, 4 * H, P, arrays.w_hh}, {w.b, 4 * H, 1, arrays.b},
            {w.w_hr, P, H, arrays.w_hr},         {w.w_ci, H, 1, arrays.w_ci},     {w.w_cf, H, 1, arrays.w_cf},
            {w.w_co, H, 1, arrays.w_co},         {w.ln, 4 * H, 1, arrays.ln},     {w.ln_ih, 4 * H, 1, arrays.ln_ih},
            {w.ln_hh, 4 * H, 1, arrays.ln_hh},   {w.ln_c, H, 1, arrays.ln_c},     {w.b_c, H, 1, arrays.b_c},
        };
        arrays.struct_size = sizeof arrays;
        for (const Part &part : parts) {
            const std::size_t size = part.values.size();
            if (size && !is(size, static_cast<std::size_t>(part.rows), part.columns))
                return false;
            /* fl_arrays holds gradients too, which are written; parameters are only read. */
            part.pointer = size ? const_cast<T *>(part.values.data()) : nullptr;
        }
        return true;
    }

    Memory memory_;
    detail::Handle<fl_stack> stack_;
    Sizes sizes_{};
};

/* Sequences whose steps go through a stack of one direction one by one, with their states. It needs the stack for as long
as it is used; one thread at a time uses it. */
template <class T> class Stream
{
  public:
    Stream() noexcept = default;
    Stream(Stream &&) noexcept = default;
    Stream &operator=(Stream &&) noexcept = default;

#if FASTLSTM_EXCEPTIONS
    explicit Stream(const Stack<T> &stack, std::int64_t batch = 1)
    {
        check(make(stack, batch));
    }

    /* A stack that ends at once cannot have a stream. */
    explicit Stream(const Stack<T> &&, std::int64_t = 1) = delete;
#endif
    fl_status make(const Stack<T> &&, std::int64_t = 1) = delete;

    [[nodiscard]] fl_status make(const Stack<T> &stack, std::int64_t batch = 1) noexcept
    {
        *this = Stream();
        if (!stack)
            return FL_NULL;
        Memory memory;
        if (const fl_status status = detail::allocate(fl_stream_bytes(stack.get(), batch), memory))
            return status;
        fl_stream *made = nullptr;
        const fl_status status = fl_make_stream(memory.data(), memory.size(), stack.get(), batch, &made);
        if (status == FL_OK) {
            memory_ = std::move(memory);
            stream_.pointer_ = made;
            sizes_ = stack.sizes();
            batch_ = batch;
        }
        return status;
    }

    /* Advance all sequences by one step: x is (batch, input) and y (batch, output). */
    [[nodiscard]] fl_status step(span<const T> x, span<T> y) noexcept
    {
        if (!*this)
            return FL_NULL;
        if (x.size() != detail::product(batch_, sizes_.input) || y.size() != detail::product(batch_, sizes_.output))
            return FL_BAD_CALL;
        return fl_step(stream_.pointer_, x.data(), y.data());
    }

    /* Advance all sequences by as many steps as x (steps, batch, input) has; y is (steps, batch, output). */
    [[nodiscard]] fl_status run(span<const T> x, span<T> y) noexcept
    {
        if (!*this)
            return FL_NULL;
        const std::size_t row = detail::product(batch_, sizes_.input), steps = x.size() / row;
        if (x.size() != steps * row || y.size() != steps * detail::product(batch_, sizes_.output))
            return FL_BAD_CALL;
        return fl_steps(stream_.pointer_, static_cast<std::int64_t>(steps), x.data(), detail::bytes<T>(sizes_.input),
                        y.data(), detail::bytes<T>(sizes_.output));
    }

    /* Write the states into h (layers, batch, output) and c (layers, batch, hidden), or take them from there. */
    [[nodiscard]] fl_status get_state(span<T> h, span<T> c) const noexcept
    {
        const fl_status status = check_states(h.size(), c.size());
        return status == FL_OK ? fl_get_states(stream_.pointer_, h.data(), c.data()) : status;
    }

    [[nodiscard]] fl_status set_state(span<const T> h, span<const T> c) noexcept
    {
        const fl_status status = check_states(h.size(), c.size());
        return status == FL_OK ? fl_set_states(stream_.pointer_, h.data(), c.data()) : status;
    }

    /* Begin anew, with states of zeros. */
    [[nodiscard]] fl_status reset() noexcept
    {
        return *this ? fl_set_states(stream_.pointer_, nullptr, nullptr) : FL_NULL;
    }

    /* For the functions of fastlstm.h; NULL if it is empty. */
    fl_stream *get() const noexcept
    {
        return stream_.pointer_;
    }

    explicit operator bool() const noexcept
    {
        return stream_.pointer_;
    }

  private:
    fl_status check_states(std::size_t h, std::size_t c) const noexcept
    {
        if (!*this)
            return FL_NULL;
        const std::size_t rows = detail::product(sizes_.layers, batch_);
        const bool fit = h == rows * static_cast<std::size_t>(sizes_.output)
            && c == rows * static_cast<std::size_t>(sizes_.hidden);
        return fit ? FL_OK : FL_BAD_CALL;
    }

    Memory memory_;
    detail::Handle<fl_stream> stream_;
    Sizes sizes_{};
    std::int64_t batch_ = 0;
};

/* A linear product y = W x + b of plain arrays. Any number of threads may use one at once. */
template <class T> class Linear
{
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);

  public:
    Linear() noexcept = default;
    Linear(Linear &&) noexcept = default;
    Linear &operator=(Linear &&) noexcept = default;

#if FASTLSTM_EXCEPTIONS
    Linear(std::int64_t inputs, std::int64_t outputs, span<const T> w, span<const T> b = {}, const char *isa = nullptr)
    {
        check(pack(inputs, outputs, w, b, isa));
    }
#endif

    /* Pack w (outputs, inputs) and b (outputs,), or none, which are not needed afterwards. */
    [[nodiscard]] fl_status pack(std::int64_t inputs, std::int64_t outputs, span<const T> w, span<const T> b = {},
                                 const char *isa = nullptr) noexcept
    {
        *this = Linear();
        if (inputs < 1 || outputs < 1)
            return FL_BAD_SHAPE;
        const std::size_t columns = static_cast<std::size_t>(inputs), rows = static_cast<std::size_t>(outputs);
        if (w.size() % columns || w.size() / columns != rows || (b.size() && b.size() != rows))
            return FL_BAD_ARRAYS;
        const int set = fl_isa(isa);
        const std::int32_t itemsize = sizeof(T);
        Memory memory;
        if (const fl_status status = detail::allocate(fl_linear_bytes(itemsize, inputs, outputs, set), memory))
            return status;
        fl_linear *made = nullptr;
        const fl_status status = fl_pack_linear(memory.data(), memory.size(), itemsize, inputs, outputs, set, w.data(),
                                                b.data(), &made);
        if (status == FL_OK) {
            memory_ = std::move(memory);
            linear_.pointer_ = made;
            inputs_ = inputs;
            outputs_ = outputs;
        }
        return status;
    }

    /* Multiply as many rows as x (rows, inputs) has; y is (rows, outputs). */
    [[nodiscard]] fl_status run(span<const T> x, span<T> y, std::int32_t threads = 1) const noexcept
    {
        if (!*this)
            return FL_NULL;
        const std::size_t columns = static_cast<std::size_t>(inputs_), rows = x.size() / columns;
        if (x.size() != rows * columns || y.size() != rows * static_cast<std::size_t>(outputs_))
            return FL_BAD_CALL;
        fl_linear_call call{};
        call.struct_size = sizeof call;
        call.x = x.data();
        call.y = y.data();
        call.x_stride = detail::bytes<T>(inputs_);
        call.y_stride = detail::bytes<T>(outputs_);
        call.rows = static_cast<std::int64_t>(rows);
        call.threads = threads;
        return fl_run_linear(linear_.pointer_, &call);
    }

    /* For the functions of fastlstm.h; NULL if it is empty. */
    const fl_linear *get() const noexcept
    {
        return linear_.pointer_;
    }

    explicit operator bool() const noexcept
    {
        return linear_.pointer_;
    }

  private:
    Memory memory_;
    detail::Handle<fl_linear> linear_;
    std::int64_t inputs_ = 0, outputs_ = 0;
};

} // namespace fastlstm

#endif
