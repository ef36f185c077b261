// Programs with windows define macros with everyday names: Qt's keywords, X11's constants. None of them may
// be a name of moegpt's, so its headers compile after them. What its headers include comes first: those are
// not our names.
#include <Eigen/Core>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <ratio>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __SSE2__
#include <immintrin.h>
#endif
#include <fcntl.h>
#include <glob.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// Each stands for something that no place of a program can take.
// Qt
#define slots ])
#define signals ])
#define emit ])
#define foreach ])
#define forever ])
#define METHOD ])
#define SLOT ])
#define SIGNAL ])
// X11
#define Above ])
#define Below ])
#define Always ])
#define AnyKey ])
#define AnyButton ])
#define Bool ])
#define Button1 ])
#define ButtonPress ])
#define ButtonRelease ])
#define CapRound ])
#define ClientMessage ])
#define Complex ])
#define Convex ])
#define Nonconvex ])
#define ControlMask ])
#define CurrentTime ])
#define CursorShape ])
#define DestroyAll ])
#define Expose ])
#define False ])
#define True ])
#define FocusIn ])
#define FocusOut ])
#define FontChange ])
#define GrayScale ])
#define GrabSuccess ])
#define InputHint ])
#define InputOnly ])
#define InputOutput ])
#define KeyPress ])
#define KeyRelease ])
#define LockMask ])
#define LineSolid ])
#define MapNotify ])
#define MotionNotify ])
#define NoValue ])
#define None ])
#define NoSymbol ])
#define NormalState ])
#define Opposite ])
#define PSize ])
#define PPosition ])
#define QLength ])
#define RootWindow ])
#define ScreenCount ])
#define ShiftMask ])
#define Status ])
#define Success ])
#define StateHint ])
#define TopIf ])
#define BottomIf ])
#define Unsorted ])
#define YSorted ])
#define XYPixmap ])
#define ZPixmap ])
#undef index
#define index(s, c) ])
#define rindex(s, c) ])
#define WidthValue ])
#define HeightValue ])
// the C library: <complex.h>, <sys/sysmacros.h>, <curses.h>, <termios.h>, <sys/param.h>, and GNU dialects
#define I ])
#define major ])
#define minor ])
#define makedev ])
#define linux ])
#define unix ])
#define OK ])
#define ERR ])
#define ECHO ])
#define B0 ])
#define MIN ])
#define MAX ])
#define howmany ])
#define roundup ])

#include <moegpt/io.hpp>
#include <moegpt/moegpt.hpp>
#include <moegpt/run/console.hpp>
#include <moegpt/run/metrics.hpp>
#include <moegpt/run/peak.hpp>
#include <moegpt/run/routing_record.hpp>
#include <moegpt/run/run_directory.hpp>
#include <moegpt/run/signals.hpp>
#include <moegpt/run/tensorboard.hpp>
#include <moegpt/testing/differences.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/testing/leak.hpp>

#include "../../examples/hello.cpp"
