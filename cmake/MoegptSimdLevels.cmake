# moegpt_simd_levels(target source.cpp)
#
# Makes `source.cpp`, which defines main(), part of the executable `target` once for each of x86-64-v2 (SSE4.2), v3
# (AVX2, FMA) and v4 (AVX-512). The program starts the highest level that its processor has; the environment variable
# MOEGPT_SIMD_LEVEL=v2, v3 or v4 asks for a lower one. Call it after target_link_libraries(target ...), whose libraries
# and flags each level is compiled with.
#
# Everything but main() is made local to its level, also what the standard library and Eigen instantiate: a linker
# would else keep one copy of an inline function for all levels. Constructors of global objects run in the level that
# was chosen. Elsewhere than on x86-64 with GNU binutils the source is compiled once, with the target's own flags.
set(MOEGPT_SIMD_LEVELS_MAIN "${CMAKE_CURRENT_LIST_DIR}/simd_levels_main.cpp")

function(moegpt_simd_levels target source)
  get_filename_component(source "${source}" ABSOLUTE)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$" OR NOT CMAKE_OBJCOPY OR NOT CMAKE_LINKER OR APPLE OR WIN32)
    message(STATUS "moegpt_simd_levels: ${target} is compiled for one level: this needs x86-64 and GNU binutils")
    target_sources(${target} PRIVATE "${source}")
    return()
  endif()
  target_sources(${target} PRIVATE "${MOEGPT_SIMD_LEVELS_MAIN}")
  set_source_files_properties("${MOEGPT_SIMD_LEVELS_MAIN}" PROPERTIES COMPILE_OPTIONS "-march=x86-64" LANGUAGE CXX)
  foreach(level v2 v3 v4)
    set(unit ${target}_x86_64_${level})
    add_library(${unit} OBJECT "${source}")
    target_link_libraries(${unit} PRIVATE $<TARGET_PROPERTY:${target},LINK_LIBRARIES>)
    target_compile_definitions(${unit} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS>)
    target_include_directories(${unit} PRIVATE $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
    target_compile_options(${unit} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_OPTIONS>
      -march=x86-64-${level} $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${unit}.o")
    add_custom_command(OUTPUT "${object}"
      COMMAND ${CMAKE_LINKER} -r --force-group-allocation $<TARGET_OBJECTS:${unit}> -o "${object}"
      COMMAND ${CMAKE_OBJCOPY} --redefine-sym main=moegpt_main_${level}
        --keep-global-symbol=moegpt_main_${level} --rename-section .init_array=moegpt_init_${level} "${object}"
      DEPENDS $<TARGET_OBJECTS:${unit}> COMMAND_EXPAND_LISTS VERBATIM
      COMMENT "Making ${target} for x86-64-${level}")
    target_sources(${target} PRIVATE "${object}")
    set_source_files_properties("${object}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  endforeach()
endfunction()
